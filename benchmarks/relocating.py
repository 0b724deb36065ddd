"""Relocations through real services: staged moves in, settled contents out, and what that took."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.staging import cids, make_files, now_ms, open_moves, register, sync_filesystem, touch_memory
from benchmarks.system import Service, System
from shared.names import LEVEL_MARKER

_IN_ONE_PIPELINE = 5000


@dataclass(frozen=True)
class Relocated:
    """`seconds` from the moment at which the movers may begin to the last settled content.

    `cpu_s` is what all services and both servers used meanwhile.
    """

    files: int
    seconds: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.files / self.seconds

    @property
    def cpu_ms_each(self) -> float:
        return self.cpu_s * 1000 / self.files


async def relocate_all(system: System, files: int, size: int, *, movers: int) -> Relocated:
    """Place, commit and retire `files` files of `size` bytes with so many movers and a recorder.

    Raises RuntimeError where a file, a row or a state is not as it must be.
    """
    names = cids(files)
    services = await _stage(system, names, size, movers)
    before, began = system.cpu_s(), now_ms()
    for service in services:
        service.go_on()
    await system.drained("moves", "placed", "retires")
    cpu_s = system.cpu_s() - before
    seconds = (max(await settled_at(system, names)) - began) / 1000
    await check(system, names)
    return Relocated(files, seconds, cpu_s)


async def forget_all(system: System, files: int) -> None:
    """After `relocate_all`: nobody knows of these files any more. They stay on the disk, which deleting slows down."""
    redis = system.scripts.redis
    async with redis.pipeline(transaction=False) as pipe:
        for name in cids(files):
            pipe.delete(system.scripts.of(name).content(name))
        await pipe.execute()
    await system.query("DELETE FROM relocations")
    await system.query("DELETE FROM update_history")
    await system.query("DELETE FROM contents WHERE content_level = 'silver'")


@dataclass(frozen=True)
class Moved:
    """What the movers alone took: `place_s` for the copies, `retire_s` for the removal of the sources."""

    place_s: float
    retire_s: float

    @property
    def seconds(self) -> float:
        return self.place_s + self.retire_s


async def move_all(system: System, files: int, size: int, *, movers: int) -> Moved:
    """Place all, then commit all, then retire all; the time of the commits in between is nobody's.

    The movers are held back while the others work. Raises RuntimeError as `relocate_all` does.
    """
    names = cids(files)
    services = await _stage(system, names, size, movers)
    recorder = services.pop()
    recorder.pause()
    began = now_ms()
    _all(services, Service.go_on)
    await system.drained("moves")
    _all(services, Service.pause)
    recorder.go_on()
    await system.drained("placed")
    recorder.pause()
    ((placed,),) = await system.query("SELECT MAX(placed_at) FROM relocations")
    place_s = (placed - began) / 1000
    began = now_ms()
    _all(services, Service.go_on)
    await system.drained("retires")
    retire_s = (max(await settled_at(system, names)) - began) / 1000
    await check(system, names)
    return Moved(place_s, retire_s)


def _all(services: Sequence[Service], do: Callable[[Service], None]) -> None:
    for service in services:
        do(service)


async def _stage(system: System, names: Sequence[str], size: int, movers: int) -> list[Service]:
    """Movers that are ready and held back, before their moves; last of all a recorder."""
    make_files(source_of(system), names, size)
    target_of(system).mkdir(exist_ok=True)
    await register(system, names)
    services = await system.start(*["mover"] * movers, "recorder")
    _all(services[:-1], Service.pause)
    await open_moves(system, names)
    sync_filesystem(system.servers.work)
    touch_memory(len(names) * size)
    return services


def source_of(system: System) -> Path:
    return Path(next(iter(system.levels)).path)


def target_of(system: System) -> Path:
    return Path(list(system.levels)[1].path)


async def settled_at(system: System, names: Sequence[str]) -> list[int]:
    """When (ms) each content was settled."""
    found: list[int] = []
    for start in range(0, len(names), _IN_ONE_PIPELINE):
        async with system.scripts.redis.pipeline(transaction=False) as pipe:
            for name in names[start : start + _IN_ONE_PIPELINE]:
                pipe.hget(system.scripts.of(name).content(name), "moved_at")
            found += [int(value or 0) for value in await pipe.execute()]
    return found


async def check(system: System, names: Sequence[str]) -> None:
    """Every file is on its new level and nowhere else, for the disk, for MySQL and for its history."""
    counts = {
        "rows on silver": "SELECT COUNT(*) FROM contents WHERE content_level = 'silver'",
        "relocations": "SELECT COUNT(*) FROM relocations",
        "changes of level": "SELECT COUNT(*) FROM update_history",
    }
    found = {what: (await system.query(sql))[0][0] for what, sql in counts.items()}
    found["files on silver"] = len(_files(target_of(system)))
    wrong = {what: number for what, number in found.items() if number != len(names)}
    left = _files(source_of(system))
    if wrong or left:
        raise RuntimeError(f"of {len(names)} relocations there are {wrong}; {len(left)} sources are left")


def _files(directory: Path) -> set[str]:
    return set(os.listdir(directory)) - {LEVEL_MARKER}  # noqa: PTH208  # names are enough
