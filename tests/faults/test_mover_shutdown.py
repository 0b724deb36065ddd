"""A mover is told to stop with its hands full: another goes on at once, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from shared.stopping import BOUND_S
from tests.faults.floor import Floor, send_signal, until
from tests.faults.strace import READ, slow, traced
from tests.stack import Service

_LEASE_MS = 60_000
"""Nothing in here waits for a lease to run out."""
_CONCURRENCY = 4
_CHUNK_S = 1.0


async def _hands_full(floor: Floor, log: Path) -> tuple[Service, list[str]]:
    """A mover with long copies in hand, and as many links and copies waiting."""
    cids = [await floor.content(size=4 << 20) for _ in range(2 * _CONCURRENCY)]
    others = [await floor.content() for _ in range(10)]
    settings = {"RESHELVE_MOVER_CONCURRENCY": str(_CONCURRENCY)}
    mover = await floor.mover(traced(log, READ, slow(READ, _CHUNK_S)), lease_ms=_LEASE_MS, settings=settings)
    for cid in cids:
        await floor.send(cid, "silver")
    await until(lambda: len(floor.parts()) == _CONCURRENCY, "every hand copies")
    for cid in others:
        await floor.send(cid, "gold")
    return mover, cids


async def _exit_s(mover: Service) -> float:
    began = time.monotonic()
    assert await asyncio.to_thread(mover.process.wait, 30) == 0
    return time.monotonic() - began


@pytest.mark.timeout(120)
async def test_mover_with_its_hands_full_stops_within_the_bound(floor: Floor, tmp_path: Path) -> None:
    """Each copy ends with its chunk. Under a lease of a minute, all comes to rest in less: nobody waits for it.

    Seen to fail without handing back: the copies in hand are finished first.
    """
    mover, cids = await _hands_full(floor, tmp_path / "calls")
    await floor.mover(lease_ms=_LEASE_MS)
    began = time.monotonic()
    send_signal(mover, signal.SIGTERM)
    took_s = await _exit_s(mover)
    assert took_s < 4 * _CHUNK_S  # a whole copy is eight chunks
    world = await floor.judge(timeout_s=_LEASE_MS / 1000 / 2)
    assert time.monotonic() - began < _LEASE_MS / 1000 / 2 + BOUND_S
    assert {world.rows[cid][0] for cid in cids} == {"silver"}
    assert len(world.relocations) == len(floor.files)
