"""An entry that kills whoever reads it, before it is parsed: real services die of it until it is a dead letter.

Rests on suspects being taken one at a time and buried by a script. Seen to fail where they are taken together (what was
read with the killer is buried with it) and where suspect.lua hands them out without an end (it kills for ever).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.keys import StreamName
from tests.faults.house import PARTITION_KEYS, PARTITIONS, House, until
from tests.faults.proxy import Proxy
from tests.faults.test_poison import Fields, wire
from tests.samples import a_move, a_placed, cids_of
from tests.stack import Service

_POISON = b"kills its reader"
_ATTEMPTS = 2
CID = cids_of(0, 1, PARTITIONS)[0]
KILLERS: dict[StreamName, tuple[str, Fields]] = {
    "views": ("planner", {b"v1": _POISON}),
    "moves": ("mover", wire(a_move(CID), why=_POISON)),
    "placed": ("recorder", wire(a_placed(CID), why=_POISON)),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stream", KILLERS)
async def test_an_entry_that_kills_its_reader_is_buried_and_what_was_read_with_it_is_handled(
    house: House, stream: StreamName
) -> None:
    name, fields = KILLERS[stream]
    cids = await house.contents(40)
    keys = PARTITION_KEYS[0]
    deaths = 0
    with Proxy.before(house.stack.redis_url_of(name)) as proxy:
        settings = {
            "RESHELVE_REDIS_URL": proxy.url,
            "RESHELVE_LEASE_MS": "300",
            "RESHELVE_MAX_ATTEMPTS": str(_ATTEMPTS),
        }
        for service in house.stack.named(name):
            assert service.stop() == 0
        async with house.redis() as redis:
            # It lies in the midst of the others, which are all there when somebody begins to read.
            assert await house.view(dict.fromkeys(cids[:20], 1500)) == 202
            await redis.xadd(keys.stream(stream), fields)
            assert await house.view(dict.fromkeys(cids[20:], 1500)) == 202
            await asyncio.sleep(0.5)
            while not (letters := await redis.xrange(keys.dead)):
                (victim,) = house.stack.start(name, settings=settings)
                proxy.deadly = (_POISON, victim.kill)
                await until(lambda v=victim: over(v, redis), "it kills, or is buried")  # type: ignore[misc]
                deaths += victim.process.poll() is not None
            await house.restart(name)
            await house.judge(dead_allowed=True)
            letters = [letter for _, letter in await redis.xrange(keys.dead)]
            await redis.delete(keys.dead)
    assert [(letter[b"origin"], letter[b"reason"]) for letter in letters] == [(stream.encode(), b"consumers died")]
    assert deaths == 2 * _ATTEMPTS
    await house.judge()


async def over(victim: Service, redis: Any) -> bool:
    return victim.process.poll() is not None or await redis.xlen(PARTITION_KEYS[0].dead) > 0
