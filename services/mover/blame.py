"""Which level an error blames: the one whose file was being touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from services.mover.beneath import Reason
from shared.errors import RetryError

LEVEL_AWAY = frozenset({Reason.LEVEL_UNAVAILABLE, Reason.READ_ONLY})
"""Says nothing whatever about the content in hand: it costs no attempt."""
WHOLE_LEVEL = LEVEL_AWAY | {Reason.DISK_FULL}
"""Meets every content that goes there."""
LEVEL_TROUBLE = WHOLE_LEVEL | {Reason.IO_ERROR, Reason.FSYNC_FAILED, Reason.PERMISSION}
"""May be the level's trouble; the last three may be one file's too."""


@contextmanager
def blaming(side: Literal["source", "target"]) -> Iterator[None]:
    """A RetryError of the block blames this level, unless it already says which."""
    try:
        yield
    except RetryError as error:
        error.blames = error.blames or side
        raise
