"""SIGTERM while views come in and files move: exit code 0 within the bound, and every 202 is counted once.

Seen to fail where a loop does not look at the stop (it is stopped in a hurry), and without handlers of our own (exit
code -15). That nothing is lost does not rest on stopping well, but on what kills show too: leases and markers.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.stopping import BOUND_S
from tests.faults.clients import stream_views
from tests.faults.house import House
from tests.faults.proxy import Proxy
from tests.stack import SERVICES

_HURRY_S = 3


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_that_is_stopped_under_load_ends_well_and_loses_nothing(house: House, name: str) -> None:
    cids = await house.contents(30)
    load = asyncio.create_task(stream_views(house, cids, 5, f"stop-{name}-{cids[0]}"))
    for _ in range(3):
        await asyncio.sleep(0.7)
        (service,) = house.stack.named(name)
        began = time.monotonic()
        assert await asyncio.to_thread(service.stop, 30) == 0, service.log.read_text()[-3000:]
        assert time.monotonic() - began < BOUND_S + _HURRY_S
        assert "stopping in a hurry" not in service.log.read_text()
        await house.restart(name)
    await load
    await house.judge()


@pytest.mark.parametrize(("signals", "at_least_s", "at_most_s"), [(1, BOUND_S - 1, BOUND_S + _HURRY_S), (2, 0, 5)])
async def test_a_second_sigterm_hurries_a_service_whose_server_does_not_answer(
    house: House, signals: int, at_least_s: float, at_most_s: float
) -> None:
    """MySQL keeps a COMMIT waiting: the recorder waits for the answer, not for ever, and loses nothing by that."""
    cids = await house.contents(4)
    with Proxy.before(house.stack.mysql_url_of("recorder")) as proxy:
        (recorder,) = await house.restart("recorder", settings={"RESHELVE_MYSQL_URL": proxy.url})
        trap = proxy.trap(b"COMMIT", "before")
        assert await house.view(dict.fromkeys(cids, 1500)) == 202
        await trap.hit()
        began = time.monotonic()
        for _ in range(signals):
            recorder.process.terminate()
            await asyncio.sleep(0.5)
        assert await asyncio.to_thread(recorder.process.wait, 20) == 0
        assert at_least_s <= time.monotonic() - began < at_most_s
    await house.restart("recorder")
    world = await house.judge()
    assert {world.rows[cid][0] for cid in cids} == {"silver"}
