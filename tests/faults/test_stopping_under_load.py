"""SIGTERM while views come in and files move: exit code 0 within the bound, and every 202 is counted once."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.stopping import BOUND_S
from tests.faults.clients import stream_views
from tests.faults.house import House
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
