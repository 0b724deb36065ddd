"""What a relocation costs where there are more movers, partitions, contents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from math import isqrt
from pathlib import Path

from benchmarks.backlog import copy_state, resting
from benchmarks.measure import Row, growing
from benchmarks.relocating import forget_all, relocate_all, target_of
from benchmarks.stages import Size, Stages
from benchmarks.staging import register
from benchmarks.system import Servers, System, two_cores
from shared.names import LEVEL_MARKER

_FILES = 6000
_MOVERS, _PARTITIONS = (1, 2, 4), (1, 8, 64)
_FEWER_CONTENTS, _MORE_CONTENTS = 10_000, 1_000_000


def rows(work: Path, scale: float) -> Iterator[Row]:
    """CPU time of all services and both servers per relocation of a 4 KiB file on one filesystem, all on two cores.

    Place, commit and retire; without the services' start, and without ingest and planner, which do not run. Where
    nothing else is said there are two movers, 8 partitions and no other contents. The levels have their markers
    already: before a mover marks an empty directory, once in a level's life, all contents are counted.
    """
    files = max(100, round(_FILES * scale))
    fewer = round(_FEWER_CONTENTS * min(1.0, 4 * scale))
    more = max(4 * fewer, round(_MORE_CONTENTS * scale))
    with two_cores(), Servers.started(work) as servers, Stages.kept(servers, _track) as stages:

        def cost(movers: int = 2, partitions: int = 8, contents: int = 0) -> float:
            return stages.run(Size(contents, partitions), lambda system: _cpu_ms(system, files, movers))

        name, unit = "cost of a relocation", "ms of CPU"
        yield growing(name, unit, "movers", _MOVERS, lambda n: cost(movers=n))
        yield growing(name, unit, "partitions", _PARTITIONS, lambda n: cost(partitions=n))
        contents = (fewer, isqrt(fewer * more), more)
        yield growing(name, unit, "contents", contents, lambda n: cost(contents=n))


async def _cpu_ms(system: System, files: int, movers: int) -> float:
    directory = Path(tempfile.mkdtemp(dir=system.servers.work))
    await system.at([directory / "bronze", directory / "silver"])
    target_of(system).mkdir()
    (target_of(system) / LEVEL_MARKER).touch()
    relocated = await relocate_all(system, files, 4096, movers=movers)
    system.stop()
    await forget_all(system, files)
    return relocated.cpu_ms_each


async def _track(system: System, contents: int) -> None:
    """Beside those that are relocated; they stay where they are."""
    names = [f"idle-{number}" for number in range(contents)]
    await register(system, names)
    await copy_state(system, names, resting(system))
