"""What the levels' directories and file systems look like from this mover: room left, and bytes there."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Gauge
from redis.asyncio import Redis

from shared import metrics
from shared.catalog import Catalog
from shared.errors import InvalidError
from shared.figures import Figures
from shared.keys import META
from shared.levels import Level
from shared.log import Log
from shared.names import LEVEL_MARKER
from shared.patience import patiently, pause, until_stopped

PERIOD_S = 600.0
_LOOK_S = 5.0
_WORK_S = 0.01
_NAP_S = 0.2
_REST = 9
"""A walk rests nine times as long as it worked: it takes a tenth of one thread, and of the disk's attention."""


@dataclass(frozen=True, slots=True)
class Room:
    """`free_bytes` is what an ordinary user may still write."""

    free_bytes: int
    size_bytes: int


def room_at(path: str, *, marked: bool) -> Room | None:
    """None where the level is away: the directory beneath its mount point would be another file system's."""
    try:
        if marked and not Path(path, LEVEL_MARKER).is_file():
            return None
        found = os.statvfs(path)
    except OSError:
        return None
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def bytes_below(path: str, should_stop: Callable[[], bool]) -> int | None:
    """The sizes of all files below the directory, parts and second copies too; None when stopped, or it is away.

    Paced: at full speed it saw 33,000 files a second (ext4, two shared cores), and it works a tenth of its time. What
    vanishes meanwhile, or cannot be read, is not counted.
    """
    if not Path(path).is_dir():
        return None
    total, began = 0, time.perf_counter()
    for size in _sizes(path):
        total += size
        worked = time.perf_counter() - began
        if worked > _WORK_S:
            _rest(worked * _REST, should_stop)
            if should_stop():
                return None
            began = time.perf_counter()
    return total


def _rest(seconds: float, should_stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not should_stop() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _NAP_S))


def _sizes(path: str) -> Iterator[int]:
    directories = [path]
    while directories:
        with suppress(OSError), os.scandir(directories.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry.stat(follow_symlinks=False).st_size


class Survey:
    """Every mover looks at the room of the levels that it has; their bytes are counted by one mover for all.

    A look costs one statvfs per level each five seconds. A walk begins ten minutes after the last one at the earliest,
    and a hundred times as long after it as it took.
    """

    def __init__(
        self, catalog: Catalog, redis: Redis, log: Log, allowed: Collection[str], *, period_s: float = PERIOD_S
    ) -> None:
        """`allowed` are the paths this mover may touch; empty means all in the level table."""
        self._catalog = catalog
        self._redis: Any = redis
        self._log = log
        self._allowed = allowed
        self._figures = Figures(redis, period_s)
        self._shown: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped. Looks and walks have a thread each: a walk may take hours."""
        looking, walking = ThreadPoolExecutor(1, "look"), ThreadPoolExecutor(1, "walk")
        try:
            await until_stopped(self._look_all(looking, stop), self._walk_all(walking, stop))
        finally:
            for pool in (looking, walking):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _look_all(self, pool: ThreadPoolExecutor, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await patiently(lambda: self._look(pool), stop, self._log, "look at the levels")
            metrics.LAST_SUCCESS.labels("room").set_to_current_time()
            await pause(stop, _LOOK_S)

    async def _look(self, pool: ThreadPoolExecutor) -> None:
        levels = await self._levels()
        names = {level.content_level for level in levels}
        metrics.start_pairs(sorted(names), metrics.MOVED_BYTES, metrics.FLIP_FLOPS)
        for gone in self._shown - names:
            _remove(gone, metrics.LEVEL_FREE_BYTES, metrics.LEVEL_SIZE_BYTES, metrics.LEVEL_BYTES)
        self._shown = names
        for level in levels:
            await self._show(level, pool)

    async def _show(self, level: Level, pool: ThreadPoolExecutor) -> None:
        name = level.content_level
        metrics.BREAKER_OPEN.labels(name)
        for counted in (await self._figures.read(_figure(level))).values():
            metrics.LEVEL_BYTES.labels(name).set(counted)
        marked = bool(await self._redis.hexists(META, f"marked:{level.path}"))
        run = asyncio.get_running_loop().run_in_executor
        room = await run(pool, lambda: room_at(level.path, marked=marked)) if self._may_touch(level) else None
        if room is None:
            _remove(name, metrics.LEVEL_FREE_BYTES, metrics.LEVEL_SIZE_BYTES)
            return
        metrics.LEVEL_FREE_BYTES.labels(name).set(room.free_bytes)
        metrics.LEVEL_SIZE_BYTES.labels(name).set(room.size_bytes)

    async def _walk_all(self, pool: ThreadPoolExecutor, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for level in await patiently(self._levels, stop, self._log, "read the levels"):
                if self._may_touch(level):
                    await patiently(lambda level=level: self._walk(level, pool, stop), stop, self._log, "count bytes")  # type: ignore[misc]
            await pause(stop, _LOOK_S)

    async def _walk(self, level: Level, pool: ThreadPoolExecutor, stop: asyncio.Event) -> None:
        marked = bool(await self._redis.hexists(META, f"marked:{level.path}"))
        run = asyncio.get_running_loop().run_in_executor

        async def walk() -> dict[str, int] | None:
            if await run(pool, lambda: room_at(level.path, marked=marked)) is None:
                return None
            counted = await run(pool, bytes_below, level.path, stop.is_set)
            return None if counted is None else {level.content_level: counted}

        await self._figures.work_out(_figure(level), walk)

    def _may_touch(self, level: Level) -> bool:
        return not self._allowed or level.path in self._allowed

    async def _levels(self) -> list[Level]:
        try:
            return list(await self._catalog.levels())
        except InvalidError:
            return []  # the planner says what is wrong with the table


def _figure(level: Level) -> str:
    return f"bytes/{level.content_level}"


def _remove(name: str, *gauges: Gauge) -> None:
    for gauge in gauges:
        gauge.remove(name)
