"""Counting and planning, beside what Redis does by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.backlog import copy_state, publish, resting, zipf_tallies
from benchmarks.limits import redis_benchmark
from benchmarks.measure import Beside, Bound, Figure, Row
from benchmarks.rows.ingest import no_files
from benchmarks.staging import cids, register
from benchmarks.system import Servers, Service, System, two_cores
from shared.levels import COUNT_MAX
from shared.messages import Tally

_CONTENTS = 1_000_000
_ENTRIES = 2000
_MOVES, _FEWEST_MOVES = 20_000, 10_000
_REQUESTS = 1_000_000
_LOOK_S = 0.01
_ABOVE = 1500


def rows(work: Path, scale: float) -> Iterator[Row]:
    """One planner process beside one Redis, which has all contents. The limit is taken on the same server.

    tally: views lie on their streams, 1000 a POST, Zipf(1.0), and none takes its content over a bound. `contents/s`
    are the counts that were written, by the planner's own metric: it sums several entries first. `a content in a
    POST/s` counts a content once for each POST that has views of it. Included are the read, the sums, the script, ack
    and delete; not included is ingest. The contents and the planner are the same in all rounds.

    review and open: contents above their band are due, with a row in MySQL that has to be read. From the moment at
    which the planner may begin until all moves are on their streams. Never fewer than some batches of them, which
    overlap: the planner looks five times a second, and of one batch half of the time would be that wait.
    """
    contents, entries = max(1000, round(_CONTENTS * scale)), max(20, round(_ENTRIES * scale))
    moves, requests = max(_FEWEST_MOVES, round(_MOVES * scale)), round(_REQUESTS * max(scale, 0.1))
    increment = ("HINCRBY", "benchmark:__rand_int__", "count", "1")
    addition = ("XADD", "benchmark", "*", "move_id", "x" * 36, "cid", "__rand_int__", "why", "y" * 60)
    with two_cores(), Servers.started(work) as servers:
        yield from _tally_rows(servers, contents, entries, lambda: redis_benchmark(servers, requests, *increment))
        yield Row(
            name="review and open",
            unit="moves/s",
            ours=lambda: asyncio.run(_open(servers, moves)),
            beside=Beside("XADD, redis-benchmark -P 100", lambda: redis_benchmark(servers, requests, *addition)),
            bounds=(Bound("ours", ">=", 10_000),),
        )


def _tally_rows(servers: Servers, contents: int, entries: int, limit: Figure) -> Iterator[Row]:
    """A million contents are put in place once: it takes longer than a round."""
    per_s: dict[str, float] = {}
    with asyncio.Runner() as runner:
        backlog = runner.run(_Backlog.of(servers, contents, entries))
        try:

            def tally(figure: str) -> float:
                per_s.update(runner.run(backlog.tallied()))
                return per_s[figure]

            yield Row(
                name="tally, contents",
                unit="contents/s",
                ours=lambda: tally("contents/s"),
                beside=Beside("HINCRBY, redis-benchmark -P 100", limit),
                bounds=(Bound("ratio", ">=", 0.5),),
                details=per_s,
            )
            yield Row(
                name="tally, views",
                unit="views/s",
                ours=lambda: tally("views/s"),
                beside=None,
                bounds=(Bound("ours", ">=", 500_000),),
            )
        finally:
            runner.run(backlog.stack.aclose())


@dataclass
class _Backlog:
    """Contents at rest, a planner that is held back, and the views that are put on the streams for each round."""

    stack: AsyncExitStack
    system: System
    planner: Service
    entries: Sequence[Tally]
    written: float = 0

    @classmethod
    async def of(cls, servers: Servers, contents: int, entries: int) -> Self:
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(System.fresh(servers, no_files(servers)))
            planner, names = await _held_back(system), cids(contents)
            await copy_state(system, names, resting(system, below=COUNT_MAX))
            return cls(stack.pop_all(), system, planner, list(zipf_tallies(names, entries, seed=7)))

    async def tallied(self) -> dict[str, float]:
        views = await publish(self.system, iter(self.entries))
        began = time.perf_counter()
        self.planner.go_on()
        await self.system.drained("views")
        took = time.perf_counter() - began
        before, self.written = self.written, await self.planner.figure("reshelve_contents_tallied_total")
        self.planner.pause()
        in_a_post = sum(len(tally.add) for tally in self.entries)
        return {
            "contents/s": (self.written - before) / took,
            "a content in a POST/s": in_a_post / took,
            "views/s": views / took,
        }


async def _open(servers: Servers, moves: int) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        names = cids(moves)
        planner = await _held_back(system)
        await register(system, names)
        await copy_state(system, names, resting(system, count=_ABOVE))
        for keys in system.scripts.partitions:
            due = {name: 0 for name in names if system.scripts.of(name) is keys}
            if due:
                await system.scripts.redis.zadd(keys.review, due)
        began = time.perf_counter()
        planner.go_on()
        streams = [keys.stream("moves") for keys in system.scripts.partitions]
        while sum([await system.scripts.redis.xlen(stream) for stream in streams]) < moves:
            if time.perf_counter() - began > 120:
                raise RuntimeError("the planner did not open all moves in two minutes")
            await asyncio.sleep(_LOOK_S)
        return moves / (time.perf_counter() - began)


async def _held_back(system: System) -> Service:
    planner = await system.start_planner()
    planner.pause()
    return planner
