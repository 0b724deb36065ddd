"""Counting and planning, beside what Redis does by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.backlog import copy_state, publish, resting, zipf_tallies
from benchmarks.limits import redis_benchmark
from benchmarks.measure import Beside, Bound, Row
from benchmarks.rows.ingest import no_files
from benchmarks.staging import cids, register
from benchmarks.system import Servers, Service, System, two_cores
from shared.keys import META
from shared.levels import COUNT_MAX

_CONTENTS = 1_000_000
_ENTRIES = 2000
_MOVES = 20_000
_REQUESTS = 1_000_000
_LOOK_S = 0.01
_ABOVE = "1500"


def rows(work: Path, scale: float) -> Iterator[Row]:
    """One planner process beside one Redis, which has all contents. The limit is taken on the same server.

    tally: views lie on their streams, 1000 a POST, Zipf(1.0), and none takes its content over a bound. `contents/s`
    counts a content once for each POST that has views of it: what an HINCRBY would have to be done for. Included are
    the read, the sums, the script, ack and delete; not included is ingest.

    review and open: contents above their band are due, with a row in MySQL that has to be read. From the moment at
    which the planner may begin until all moves are on their streams.
    """
    contents, entries = max(1000, round(_CONTENTS * scale)), max(20, round(_ENTRIES * scale))
    moves, requests = max(1000, round(_MOVES * scale)), round(_REQUESTS * max(scale, 0.1))
    increment = ("HINCRBY", "benchmark:__rand_int__", "count", "1")
    addition = ("XADD", "benchmark", "*", "move_id", "x" * 36, "cid", "__rand_int__", "why", "y" * 60)
    with two_cores(), Servers.started(work) as servers:
        per_s: dict[str, float] = {}

        def tally() -> float:
            per_s.update(asyncio.run(_tally(servers, contents, entries)))
            return per_s["contents/s"]

        yield Row(
            name="tally, contents",
            unit="contents/s",
            ours=tally,
            beside=Beside("HINCRBY, redis-benchmark -P 100", lambda: redis_benchmark(servers, requests, *increment)),
            bounds=(Bound("ratio", ">=", 0.5),),
            details=per_s,
        )
        yield Row(
            name="tally, views",
            unit="views/s",
            ours=lambda: asyncio.run(_tally(servers, contents, entries))["views/s"],
            beside=None,
            bounds=(Bound("ours", ">=", 500_000),),
        )
        yield Row(
            name="review and open",
            unit="moves/s",
            ours=lambda: asyncio.run(_open(servers, moves)),
            beside=Beside("XADD, redis-benchmark -P 100", lambda: redis_benchmark(servers, requests, *addition)),
            bounds=(Bound("ours", ">=", 10_000),),
        )


async def _tally(servers: Servers, contents: int, entries: int) -> dict[str, float]:
    async with System.fresh(servers, no_files(servers)) as system:
        names = cids(contents)
        await copy_state(system, names, resting(system, below=COUNT_MAX))
        planner = await _held_back(system)
        applied = 0

        def counted() -> Iterator[object]:
            nonlocal applied
            for tally in zipf_tallies(names, entries, seed=7):
                applied += len(tally.add)
                yield tally

        views = await publish(system, counted())  # type: ignore[arg-type]
        began = time.perf_counter()
        planner.go_on()
        await system.drained("views")
        took = time.perf_counter() - began
        return {"contents/s": applied / took, "views/s": views / took}


async def _open(servers: Servers, moves: int) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        names = cids(moves)
        # Before there are contents: it must not put them up for review for a level table that is new to it.
        planner = await _held_back(system)
        await register(system, names)
        await copy_state(system, names, {**resting(system), "count": _ABOVE})
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
    (planner,) = await system.start("planner")
    while not await system.scripts.redis.hget(META, "levels"):
        await asyncio.sleep(_LOOK_S)
    planner.pause()
    return planner
