"""What the system takes of the machine's memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.backlog import State, copy_state, place_all, publish, zipf_tallies
from benchmarks.ingest_load import load
from benchmarks.measure import Bound, Row
from benchmarks.relocating import relocate_all
from benchmarks.rows.ingest import no_files
from benchmarks.staging import cids, register
from benchmarks.system import Servers, Service, System, two_cores
from shared.messages import Tally

_CONTENTS, _ENTRIES, _PLACED, _FILES = 1_000_000, 3000, 30_000, 10_000
_OVERLOAD_S = 8.0
_SERVICE_MB, _INGEST_MB, _CONTENT_BYTES = 150, 200, 300


def rows(work: Path, scale: float) -> Iterator[Row]:
    """Redis: the fields that a real planner left in a content at rest, given to a million contents; by INFO memory.

    Services: the most resident memory that each had (VmHWM) by the end of a backlog that was there before it began; for
    ingest, of 256 connections posting 1000 views at a time beyond its backlog limit, most of which get a 503.
    """

    def most(name: str, mb: float, of: object) -> Row:
        return Row(name, "MB", lambda: asyncio.run(of()), None, (Bound("ours", "<=", mb),), most_rounds=1)  # type: ignore[operator]

    def sized(number: int) -> int:
        return max(500, round(number * scale))

    with two_cores(), Servers.started(work) as servers:
        yield Row(
            name="Redis per content",
            unit="bytes",
            ours=lambda: asyncio.run(_redis_bytes(servers, sized(_CONTENTS))),
            beside=None,
            bounds=(Bound("ours", "<=", _CONTENT_BYTES),),
            most_rounds=1,
        )
        yield most("planner with a backlog", _SERVICE_MB, lambda: _planner(servers, sized(_CONTENTS), sized(_ENTRIES)))
        yield most("recorder with a backlog", _SERVICE_MB, lambda: _recorder(servers, sized(_PLACED)))
        yield most("mover with a backlog", _SERVICE_MB, lambda: _mover(servers, sized(_FILES)))
        yield most("ingest under overload", _INGEST_MB, lambda: _ingest(servers, max(4.0, _OVERLOAD_S * scale)))


async def _redis_bytes(servers: Servers, contents: int) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        await register(system, ["7"])
        await system.start("planner")
        await publish(system, iter([Tally({"7": 7}, {})]))
        redis: Any = system.scripts.redis
        keys = system.scripts.of("7")
        for _ in range(500):
            state = await redis.hgetall(keys.content("7"))
            if state.get(b"status") == b"idle":
                break
            await asyncio.sleep(0.02)
        else:
            raise RuntimeError("the planner did not let the content rest within ten seconds")
        system.stop()
        before = (await redis.info("memory"))["used_memory"]
        names = [f"content-{number}" for number in range(contents)]
        fields = {name.decode(): value.decode() for name, value in state.items()}
        await copy_state(system, names, State(fields, (await redis.hget(keys.counts, "7")).decode()))
        return float((await redis.info("memory"))["used_memory"] - before) / contents


async def _planner(servers: Servers, contents: int, entries: int) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        (planner,) = await system.start("planner")
        planner.pause()
        await publish(system, zipf_tallies(cids(contents), entries, seed=7))
        planner.go_on()
        await system.drained("views")
        return most_mb(planner)


async def _recorder(servers: Servers, placed: int) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        (recorder,) = await system.start("recorder")
        recorder.pause()
        await place_all(system, cids(placed))
        recorder.go_on()
        await system.drained("placed")
        return most_mb(recorder)


async def _mover(servers: Servers, files: int) -> float:
    directory = servers.work / "moved"
    async with System.fresh(servers, [directory / "bronze", directory / "silver"]) as system:
        await relocate_all(system, files, 4096, movers=1)
        return most_mb(next(service for service in system.services if service.name == "mover"))


async def _ingest(servers: Servers, seconds: float) -> float:
    settings = {"RESHELVE_BACKLOG_LIMIT": "20"}
    async with System.fresh(servers, no_files(servers), settings=settings) as system:
        (ingest,) = await system.start("ingest")
        taken = await asyncio.to_thread(load, system.port, views=1000, seconds=seconds, connections=256)
        if "503" not in taken.answers:
            raise RuntimeError(f"that was no overload: {dict(taken.answers)}")
        return most_mb(ingest)


def most_mb(service: Service) -> float:
    """The most resident memory that the process had so far."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(kib) * 1024 / 1e6
