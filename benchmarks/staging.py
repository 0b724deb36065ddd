"""What a run needs beforehand: files, rows, moves that were opened as the planner opens them."""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import orjson

from benchmarks.system import System
from shared.catalog import sql
from shared.levels import Levels
from shared.messages import Move
from shared.moveid import new_move_id
from shared.state.reviews import Opening, Reviews

_ROWS = 1000
_MOVES = 256
"""As many as a planner reviews of a partition at a time."""
_COUNT = 1500
_PAGE = 4096
_WRITTEN_AT_ONCE = 1024 * 1024


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def cids(number: int) -> list[str]:
    return [str(n) for n in range(number)]


def make_files(directory: Path, names: Sequence[str], size: int) -> None:
    """Files of `size` bytes that no disk can deflate to nothing, each different, all written to the disk."""
    directory.mkdir(parents=True, exist_ok=True)
    block = os.urandom(min(size, _WRITTEN_AT_ONCE))
    for number, name in enumerate(names):
        left = size
        with (directory / name).open("wb", buffering=0) as file:
            head = number.to_bytes(8, "little")
            while left:
                left -= file.write((head + block)[: min(left, len(block))])
    sync_filesystem(directory)


def sync_filesystem(directory: Path) -> None:
    """What was made beforehand is not to be written during the run."""
    # Python has os.sync alone, which waits for everybody's disks.
    subprocess.run(["sync", "-f", str(directory)], check=True)


def touch_memory(size: int) -> None:
    """Take and give back as many bytes as the run will use: on a virtual machine the first touch of a page is slow."""
    with mmap.mmap(-1, max(size, _PAGE)) as memory:
        for at in range(0, size, _PAGE):
            memory[at] = 1


async def register(system: System, names: Sequence[str], level: str = "bronze") -> None:
    """Track contents whose filenames are their cids, by the statement of `reshelve import`."""
    pairs = sorted((name, name) for name in names)
    for start in range(0, len(pairs), _ROWS):
        await system.query(sql.REGISTER_MANY, (level, orjson.dumps(pairs[start : start + _ROWS]).decode()))


async def open_moves(system: System, names: Sequence[str]) -> None:
    """From bronze to silver, by the planner's script."""
    reviews = Reviews(system.scripts)
    of_partition: dict[int, list[Opening]] = defaultdict(list)
    for name in names:
        of_partition[system.scripts.of(name).partition].append(Opening(_move(name, system.levels), "0", _COUNT))
    for partition, openings in of_partition.items():
        for start in range(0, len(openings), _MOVES):
            opened = await reviews.open(partition, openings[start : start + _MOVES])
            assert all(opened)


def _move(cid: str, levels: Levels) -> Move:
    source, target = list(levels)[:2]
    now = now_ms()
    why = f"count {_COUNT} belongs on silver (1000-1999), not bronze (0-999)"
    return Move(
        move_id=new_move_id(),
        cid=cid,
        filename=cid,
        from_level=source.content_level,
        to_level=target.content_level,
        from_path=source.path,
        to_path=target.path,
        count=_COUNT,
        why=why,
        viewed_at=now,
        planned_at=now,
    )
