"""The lease of a mover that lives: kept through a long copy, and through a short hold of its event loop."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from tests.faults.floor import Floor
from tests.faults.strace import POLL, READ, slow, traced, written
from tests.stack import Service

_LEASE_S = 1.0


def _said(mover: Service, event: str) -> list[dict[str, object]]:
    """The mover's log lines about this event."""
    lines = (line for line in mover.log.read_text().splitlines() if line.startswith("{"))
    return [found for line in lines if (found := orjson.loads(line))["event"] == event]


async def test_copy_ten_times_longer_than_the_lease_is_not_taken_away(floor: Floor, tmp_path: Path) -> None:
    """Seen to fail without renewing: the other mover takes the entry over, and places by a second attempt."""
    log = tmp_path / "calls"
    cid = await floor.content(size=6 << 20)  # six chunks, each read twice, at the same time by two threads
    first = await floor.mover(traced(log, READ, slow(READ, 1.8)))
    await floor.send(cid, "silver")
    await written(log, "preadv")
    other = await floor.mover()
    await floor.judge()
    (placed,) = _said(first, "placed")
    assert float(str(placed["seconds"])) > 10 * _LEASE_S
    assert await floor.sql("SELECT attempts FROM relocations") == [(1,)]
    for event in ("reclaimed", "not started", "placed"):
        assert _said(other, event) == []


@pytest.mark.parametrize(("held_s", "attempts"), [(0.4, 1), (3.0, 2)])
async def test_mover_whose_event_loop_is_held_renews_in_time_or_is_refused(
    floor: Floor, held_s: float, attempts: int, tmp_path: Path
) -> None:
    """Again and again the loop's thread is held in its wait for events, while the thread that copies goes on.

    Held for longer than the lease, the mover has lost its work to the other, which sweeps its part away, and what it
    brings then is refused. Seen to fail without sweeping and with a finish that asks for no attempt; the short hold
    without renewing.
    """
    log = tmp_path / "calls"
    cid = await floor.content(size=6 << 20)
    first = await floor.mover(traced(log, f"{READ}|epoll_p?wait", slow(READ, 0.4), slow(POLL, held_s, "200+100")))
    await floor.send(cid, "silver")
    await written(log, "preadv")
    other = await floor.mover()
    world = await floor.judge()
    assert world.rows[cid][0] == "silver"
    assert await floor.sql("SELECT attempts FROM relocations") == [(attempts,)]
    assert len(_said(first if attempts == 1 else other, "placed")) == 1
    assert first.stop(40) == 0
    copying = log.read_text(errors="replace").partition("preadv")[2]
    assert re.search(r"epoll_p?wait.*\(DELAYED\)", copying), "the loop was not held while the mover copied"
    assert len(_said(first, "placed")) == 2 - attempts
    # Once more: what came too late has changed nothing.
    await floor.judge()
