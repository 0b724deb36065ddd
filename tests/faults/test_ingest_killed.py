"""kill -9 of ingest just before and just after its publish script: the client repeats until it is answered.

After it, Redis has taken the views in and no answer was sent. Seen to fail (twice what was answered) with the marker's
`NX` taken out of publish.lua.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from tests.faults.house import House
from tests.faults.proxy import Moment, Proxy, script

Client = Callable[[House, Mapping[str, int]], Coroutine[Any, Any, int]]
"""Repeats until it is answered with 202; returns how many requests that took."""


async def under_a_key(house: House, views: Mapping[str, int]) -> int:
    """A batch that its Idempotency-Key stands for."""
    return await house.view_surely(views, f"killed-{min(views)}")


async def as_events(house: House, views: Mapping[str, int]) -> int:
    """A batch of CloudEvents, each of which its id stands for."""
    events = [
        {
            "specversion": "1.0",
            "id": f"{cid}-{n}",
            "source": "player",
            "type": "view",
            "data": {"cid": cid, "views": n},
        }
        for cid, n in views.items()
    ]
    for requests in range(1, 300):
        status = await house.post(events, {}, content_type="application/cloudevents-batch+json")
        if status == 202:
            house.counts.update(views)
            return requests
        assert status in {0, 503}, f"a repetition got {status}"
        await asyncio.sleep(0.1)
    raise AssertionError("no 202 within half a minute")


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("client", [under_a_key, as_events])
async def test_views_whose_ingest_was_killed_before_it_answered_are_counted_once(
    house: House, client: Client, moment: Moment
) -> None:
    """Contents of all partitions, so that one request is a transaction of several scripts."""
    cids = await house.contents(12)
    with Proxy.before(house.stack.redis_url_of("ingest")) as proxy:
        (victim,) = await house.restart("ingest", settings={"RESHELVE_REDIS_URL": proxy.url})
        # Redis knows the script from here on: the trap is for the call that does it.
        assert await house.view(dict.fromkeys(cids, 1)) == 202
        trap = proxy.trap(script("publish"), moment, victim.kill)
        repeating = asyncio.create_task(client(house, dict.fromkeys(cids, 1200)))
        await trap.hit()
    await house.restart("ingest")
    assert await repeating > 1
    world = await house.judge()
    assert {world.states[cid]["count"] for cid in cids} == {"1201"}


async def test_many_clients_of_an_ingest_that_is_killed_again_and_again_are_counted_once(house: House) -> None:
    """Requests that wait together go out together: each is still taken in once by its own key."""
    cids = await house.contents(8)
    ending = asyncio.Event()

    async def client(number: int) -> int:
        turn = 0
        while not ending.is_set():
            await house.view_surely({cids[number % 8]: 3, cids[(number + 1) % 8]: 5}, f"many-{number}-{turn}")
            turn += 1
        return turn

    clients = [asyncio.create_task(client(number)) for number in range(16)]
    for _ in range(4):
        await asyncio.sleep(0.5)
        (victim,) = house.stack.named("ingest")
        await asyncio.to_thread(victim.kill)
        await house.restart("ingest")
    ending.set()
    assert min(await asyncio.gather(*clients)) > 0
    await house.judge()
