"""Committing placed copies, beside the statement that somebody would write by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.backlog import place_all
from benchmarks.limits import changed_by_hand_per_s
from benchmarks.measure import Beside, Bound, Row
from benchmarks.rows.ingest import no_files
from benchmarks.staging import cids
from benchmarks.system import Servers, System, two_cores

_COMMITS = 30_000


def rows(work: Path, scale: float) -> Iterator[Row]:
    """One recorder process; placed copies are on their streams. Until all are committed.

    Ours reads the entries, locks and judges the rows, changes them (the trigger writes the history), records the
    relocations, and moves the entries on in Redis. By hand: an UPDATE joined with 500 rows of JSON, committed, one
    after the other; the trigger and its history are the same, but it records no relocation and knows no Redis.
    """
    number = max(1000, round(_COMMITS * scale))
    with two_cores(), Servers.started(work) as servers:
        yield Row(
            name="recorder, commits",
            unit="commits/s",
            ours=lambda: asyncio.run(_ours(servers, number)),
            beside=Beside("500-row JSON_TABLE UPDATE by hand", lambda: asyncio.run(_by_hand(servers, number))),
            bounds=(Bound("ratio", ">=", 0.5), Bound("ours", ">=", 15_000)),
        )


async def _ours(servers: Servers, number: int) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        (recorder,) = await system.start("recorder")
        recorder.pause()
        await place_all(system, cids(number))
        began = time.perf_counter()
        recorder.go_on()
        await system.drained("placed")
        took = time.perf_counter() - began
        ((committed,),) = await system.query("SELECT COUNT(*) FROM relocations")
        if committed != number:
            raise RuntimeError(f"{committed} of {number} relocations were committed")
        return number / took


async def _by_hand(servers: Servers, number: int) -> float:
    async with System.fresh(servers, no_files(servers)) as system:
        return await changed_by_hand_per_s(system, number)
