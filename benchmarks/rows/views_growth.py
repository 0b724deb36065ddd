"""What a view costs where there are more contents or partitions, and what a planner costs that has nothing to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.backlog import copy_state, resting
from benchmarks.ingest_load import load
from benchmarks.load import CONTENTS
from benchmarks.measure import Beside, Bound, Row
from benchmarks.rows.ingest import listening, no_files
from benchmarks.system import Servers, System, two_cores
from shared.levels import COUNT_MAX

_MORE = 1_000_000
_SECONDS, _IDLE_S, _SETTLE_S = 4.0, 6.0, 2.0
_VIEWS = 1000
_FLAT = Bound("ratio", "<=", 1.2)


def rows(work: Path, scale: float) -> Iterator[Row]:
    """CPU time of ingest, planner and both servers per view: NDJSON of 1000, Zipf(1.0) over the same 10,000 contents.

    More contents are tracked beside them, and get no views: the audience does not grow with the archive. Idle: a
    planner that has nothing to do, by the scheduler's own clock (that of the kernel's accounts ticks every 10 ms).
    """
    more, seconds = max(2 * CONTENTS, round(_MORE * scale)), max(1.0, _SECONDS * scale)
    with two_cores(), Servers.started(work) as servers:

        def cost(contents: int, partitions: int) -> float:
            return asyncio.run(_cpu_us(servers, contents, partitions, seconds))

        def idle(contents: int) -> float:
            return asyncio.run(_idle_ms(servers, contents, max(2.0, _IDLE_S * scale)))

        few = Beside(f"{CONTENTS:,} contents", lambda: cost(CONTENTS, 8))
        one = Beside("1 partition", lambda: cost(CONTENTS, 1))
        idle_few = Beside(f"{CONTENTS:,} contents", lambda: idle(CONTENTS))
        yield Row(f"cost of a view, {more:,} contents", "µs of CPU", lambda: cost(more, 8), few, (_FLAT,))
        yield Row("cost of a view, 64 partitions", "µs of CPU", lambda: cost(CONTENTS, 64), one, (_FLAT,))
        yield Row(f"idle planner, {more:,} contents", "ms of CPU/s", lambda: idle(more), idle_few, (_FLAT,))


async def _cpu_us(servers: Servers, contents: int, partitions: int, seconds: float) -> float:
    async with listening(servers, "planner", partitions=partitions) as (system, port):
        await _track(system, contents)
        before = system.cpu_s()
        taken = await asyncio.to_thread(load, port, views=_VIEWS, seconds=seconds)
        await system.drained("views")
        return (system.cpu_s() - before) * 1e6 / (taken.answers["202"] * _VIEWS)


async def _idle_ms(servers: Servers, contents: int, seconds: float) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        await _track(system, contents)
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
