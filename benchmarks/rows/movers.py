"""Movers between filesystems, beside the commands that people would move files with."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Beside, Bound, Row
from benchmarks.mounts import Places, two_filesystems
from benchmarks.relocating import move_all
from benchmarks.staging import cids, make_files, sync_filesystem, touch_memory
from benchmarks.system import CORES, Servers, System, two_cores

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Command:
    """A shell script that moves (or copies) all files from `$1` to `$2`."""

    name: str
    script: str
    program: str


_RSYNC_DURABLE = Command(
    "rsync -a --fsync --remove-source-files", 'rsync -a --fsync --remove-source-files "$1/" "$2"', "rsync"
)
_NOT_DURABLE = (
    Command("rsync -a --remove-source-files", 'rsync -a --remove-source-files "$1/" "$2"', "rsync"),
    Command("mv", 'mv -t "$2" "$1"/*', "mv"),
    # How many at a time is fastest differs from machine to machine: its default, and more.
    *(
        Command(f"rclone move --transfers {n}", f'rclone move --config "" --transfers {n} "$1" "$2"', "rclone")
        for n in (4, 8, 32)
    ),
)
# Of the two filesystems alone: `sync` without them would wait for everybody's.
_CP_RM_SYNC = Command("cp -a, rm, sync", 'cp -a "$1/." "$2" && rm "$1"/* && sync -f "$2" "$1"', "cp")
_CP_SYNC = Command("cp, sync", 'cp "$1"/* "$2" && sync -f "$2"', "cp")
_COMMANDS = (_RSYNC_DURABLE, *_NOT_DURABLE, _CP_RM_SYNC, _CP_SYNC)


@dataclass(frozen=True)
class Load:
    """`files` of `size` bytes; to another disk, or to a tmpfs."""

    work: Path
    files: int
    size: int
    to_tmpfs: bool = False

    def places(self) -> AbstractContextManager[Places]:
        return two_filesystems(self.work, self.files * self.size, to_tmpfs=self.to_tmpfs)

    @property
    def mb(self) -> float:
        return self.files * self.size / 1e6


def rows(work: Path, scale: float) -> Iterator[Row]:
    """Each round on two filesystems made for it. The sources are in the page cache, for both sides.

    Ours: movers as real processes, ready, with the moves in Redis; from the moment at which they may begin to the last
    entry on `placed`, and again from the moment at which all is committed to the last settled content. That includes
    Redis, the copy, its fsync, reading it back past the page cache against its digest, fsync of the directories, the
    questions to Redis and MySQL before a source goes, its removal. The recorder's time between is not included. As many
    movers as cores, since a command's processes use both, too; where one mover is meant, the row says so.

    Raises RuntimeError where a command is missing.
    """
    _check_programs()
    small = Load(work, max(50, round(3000 * scale)), 4 * _KIB)
    middle = Load(work, max(8, round(400 * scale)), _MIB)
    large = Load(work, 1, max(_MIB, round(1024 * _MIB * scale)))
    with two_cores(), Servers.started(work) as servers:
        yield from _small(servers, small)
        yield Row(
            name="mover, 1 MiB, across filesystems",
            unit="MB/s",
            ours=lambda: middle.mb / _ours(servers, middle, CORES),
            beside=Beside(_CP_RM_SYNC.name, lambda: middle.mb / _theirs(middle, _CP_RM_SYNC)),
            bounds=(Bound("ratio", ">=", 1.0),),
        )
        yield _large(servers, large, "to a disk", 0.8)
        yield _large(servers, Load(work, large.files, large.size, to_tmpfs=True), "to a tmpfs", 0.6)


def _check_programs() -> None:
    """A table without one of them would look as if it had not been thought of."""
    missing = sorted({command.program for command in _COMMANDS if shutil.which(command.program) is None})
    if missing:
        raise RuntimeError(f"{' and '.join(missing)} missing: apt-get install {' '.join(missing)}")


def _small(servers: Servers, load: Load) -> Iterator[Row]:
    def ours(movers: int = CORES) -> float:
        return load.files / _ours(servers, load, movers)

    def theirs(command: Command) -> float:
        return load.files / _theirs(load, command)

    durable = Beside(f"{_RSYNC_DURABLE.name} (durable, not verified)", lambda: theirs(_RSYNC_DURABLE))
    yield Row("mover, 4 KiB, across filesystems, and durable", "files/s", ours, durable, (Bound("ratio", ">=", 3.0),))
    yield Row("one mover, 4 KiB, across filesystems, and durable", "files/s", lambda: ours(1), durable, ())
    survey = {command.name: theirs(command) for command in _NOT_DURABLE}
    fastest = max(_NOT_DURABLE, key=lambda command: survey[command.name])
    yield Row(
        name="mover, 4 KiB, across filesystems",
        unit="files/s",
        ours=ours,
        beside=Beside(f"{fastest.name} (neither durable nor verified)", lambda: theirs(fastest)),
        bounds=(),
        details=survey,
    )


def _large(servers: Servers, load: Load, where: str, least: float) -> Row:
    """One file, and not its retire: `cp` leaves the source alone."""
    return Row(
        name=f"mover, 1 GiB, {where}",
        unit="MB/s",
        ours=lambda: load.mb / _ours(servers, load, 1, placing_only=True),
        beside=Beside(_CP_SYNC.name, lambda: load.mb / _theirs(load, _CP_SYNC)),
        bounds=(Bound("ratio", ">=", least),),
    )


def _ours(servers: Servers, load: Load, movers: int, *, placing_only: bool = False) -> float:
    async def run(places: Places) -> float:
        async with System.fresh(servers, [places.source, places.target]) as system:
            moved = await move_all(system, load.files, load.size, movers=movers)
        return moved.place_s if placing_only else moved.seconds

    with load.places() as places:
        return asyncio.run(run(places))


def _theirs(load: Load, command: Command) -> float:
    """Seconds. Raises RuntimeError where a file is not where it belongs."""
    with load.places() as places:
        make_files(places.source, cids(load.files), load.size)
        touch_memory(load.files * load.size)
        began = time.perf_counter()
        # No timeout: waiting with one would round the time to some 50 ms.
        subprocess.run(["sh", "-ec", command.script, "sh", str(places.source), str(places.target)], check=True)
        seconds = time.perf_counter() - began
        there = len(os.listdir(places.target))  # noqa: PTH208  # names are enough
        if there != load.files:
            raise RuntimeError(f"{command.name} brought {there} of {load.files} files")
        sync_filesystem(places.target)
        return seconds
