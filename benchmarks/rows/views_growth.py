"""What a view costs where there are more contents or partitions, and what a planner costs that has nothing to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from math import isqrt
from pathlib import Path

from benchmarks.backlog import copy_state, resting
from benchmarks.ingest_load import load
from benchmarks.load import CONTENTS
from benchmarks.measure import Row, growing
from benchmarks.rows.ingest import UNLIMITED
from benchmarks.stages import Size, Stages
from benchmarks.system import Servers, System, two_cores
from shared.levels import COUNT_MAX

_MORE = 1_000_000
_PARTITIONS = (1, 8, 64)
_SECONDS, _IDLE_S, _SETTLE_S = 4.0, 5.0, 1.0
_VIEWS = 1000


def rows(work: Path, scale: float) -> Iterator[Row]:
    """CPU time of ingest, planner and both servers per view: NDJSON of 1000, Zipf(1.0) over the same 10,000 contents.

    More contents are tracked beside them, and get no views: the audience does not grow with the archive. Idle: a
    planner that has nothing to do, by the scheduler's own clock (that of the kernel's accounts ticks every 10 ms).
    """
    more = max(4 * CONTENTS, round(_MORE * scale))
    contents = (CONTENTS, isqrt(CONTENTS * more), more)
    seconds, idle_s = max(1.0, _SECONDS * scale), max(2.0, _IDLE_S * scale)
    with two_cores(), Servers.started(work) as servers, Stages.kept(servers, _track, UNLIMITED) as stages:

        def cost(contents: int = CONTENTS, partitions: int = 8) -> float:
            return stages.run(Size(contents, partitions), lambda system: _cpu_us(system, seconds))

        def idle(contents: int) -> float:
            return stages.run(Size(contents), lambda system: _idle_ms(system, idle_s))

        yield growing("cost of a view", "µs of CPU", "contents", contents, cost)
        yield growing("cost of a view", "µs of CPU", "partitions", _PARTITIONS, lambda n: cost(partitions=n))
        yield growing("idle planner", "ms of CPU/s", "contents", contents, idle)


async def _cpu_us(system: System, seconds: float) -> float:
    await system.start("ingest", "planner")
    before = system.cpu_s()
    taken = await asyncio.to_thread(load, system.port, views=_VIEWS, seconds=seconds, contents=CONTENTS)
    await system.drained("views")
    return (system.cpu_s() - before) * 1e6 / (taken.answers["202"] * _VIEWS)


async def _idle_ms(system: System, seconds: float) -> float:
    (planner,) = await system.start("planner")
    await asyncio.sleep(_SETTLE_S)
    pid, began = planner.process.pid, time.perf_counter()
    before = _scheduled_ns(pid)
    await asyncio.sleep(seconds)
    return (_scheduled_ns(pid) - before) / 1e6 / (time.perf_counter() - began)


async def _track(system: System, contents: int) -> None:
    await copy_state(system, [f"content-{number}" for number in range(contents)], resting(system, below=COUNT_MAX))


def _scheduled_ns(pid: int) -> int:
    """Time on a core, of all threads."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
