"""Level markers: an empty directory is a new level, or a mount point whose level is away. The marker tells which.

Without it a mover would write beneath the mount point, call sources missing, and call retires done.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis

from services.mover.beneath import Reason, doing, open_root, sync_directory
from services.mover.blame import blaming
from services.mover.identity import Entry
from shared.catalog import Catalog
from shared.errors import RetryError
from shared.keys import META
from shared.messages import Move, Placed, Retire
from shared.names import LEVEL_MARKER

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def open_level(path: str, *, marked: bool) -> Iterator[int]:
    """A descriptor of the level's directory. With `marked`, raises RetryError where its marker is missing."""
    with open_root(path) as fd:
        # Asked of the open directory: whatever is mounted there later, the work goes on in this one.
        if marked and not _stands(path, fd):
            raise _unavailable(path, f"has no {LEVEL_MARKER}")
        yield fd


class Markers:
    """Marks each level once; asks Redis about each path once in the life of the process."""

    def __init__(self, redis: Redis, catalog: Catalog) -> None:
        """`redis` remembers which paths were marked, `catalog` knows whether a level ought to be empty."""
        self._redis: Any = redis
        self._catalog = catalog
        self._known: set[str] = set()

    async def of(self, work: Move | Placed, pool: Executor) -> frozenset[str]:
        """Those of the work's two paths whose markers must stand when it begins. Repeat it through outages.

        A level that was never marked is marked now. Raises RetryError where it cannot be, or should not: an empty
        directory, though the catalog has contents there, is no new level. File work runs in `pool`.
        """
        with blaming("source"):
            # The content in hand may be the only one there, and its file missing: let that be said.
            await self._mark(work.from_path, work.from_level, pool, missing=0 if isinstance(work, Retire) else 1)
        with blaming("target"):
            await self._mark(work.to_path, work.to_level, pool, missing=0)
        return frozenset({work.from_path, work.to_path} & self._known)

    async def _mark(self, path: str, level: str, pool: Executor, *, missing: int) -> None:
        field = f"marked:{path}"
        if path in self._known:
            return
        if not await self._redis.hexists(META, field):
            run = asyncio.get_running_loop().run_in_executor
            # The catalog outlives a lost Redis, and so tells a level that is away even then.
            if await run(pool, _is_bare, path):
                contents = (await self._catalog.count_by_level()).get(level, 0)
                if contents > missing:
                    raise _unavailable(path, f"is empty, but the catalog has {contents} contents on {level}")
            if not await run(pool, _make_marker, path):
                return
            await self._redis.hset(META, field, "1")
        self._known.add(path)


def _stands(path: str, root_fd: int) -> bool:
    with doing(f"look for {LEVEL_MARKER} in {path!r}"):
        return Entry(root_fd, LEVEL_MARKER).stat() is not None


def _is_bare(path: str) -> bool:
    with open_root(path) as fd, doing(f"list {path!r}"), os.scandir(fd) as entries:
        return next(entries, None) is None


def _make_marker(path: str) -> bool:
    """True once the marker stands, durably. False where the disk is full: what makes room must not wait for it."""
    with open_root(path) as fd, doing(f"make {LEVEL_MARKER} in {path!r}"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            marker = os.open(LEVEL_MARKER, flags, 0o644, dir_fd=fd)
        except FileExistsError:
            return True
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        try:
            os.fsync(marker)
        finally:
            os.close(marker)
        sync_directory(fd)
        return True


def _unavailable(path: str, what: str) -> RetryError:
    remedy = f"mount it, or, if this is the right directory, make the file: touch {path}/{LEVEL_MARKER}"
    return RetryError(Reason.LEVEL_UNAVAILABLE, f"{path!r} {what}: {remedy}")
