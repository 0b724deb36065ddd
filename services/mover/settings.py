"""The mover's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from shared.settings import Port, Settings


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(":") if part)


@dataclass(frozen=True, kw_only=True)
class MoverSettings(Settings):
    """`mover_concurrency`: files at work at once; `mover_roots`: directories, separated by colons, that it may touch.

    Without `mover_roots` it may touch the paths in the level table.
    """

    metrics_port: Port = 9102
    mover_concurrency: Annotated[int, Meta(ge=1, le=256)] = 8
    mover_roots: Annotated[tuple[str, ...], _split] = ()
