"""A consumer removed from its group by hand (XGROUP DELCONSUMER) while it holds entries: Redis forgets whose they were.

Rests on the sweep in `Reclaiming.stale`. Seen to fail without it: such entries never settle.
"""

from __future__ import annotations

from typing import Any

import pytest

from shared.keys import GROUPS, StreamName
from tests.faults.house import PARTITION_KEYS, House
from tests.faults.proxy import Proxy, script

HOLDERS: dict[StreamName, tuple[str, str]] = {
    "views": ("planner", "tally"),
    "moves": ("mover", "start"),
    "placed": ("recorder", "commit"),
}


async def holders(redis: Any, stream: StreamName) -> set[tuple[int, bytes]]:
    """(partition, consumer) of each that holds entries."""
    found = set()
    for keys in PARTITION_KEYS:
        for row in await redis.xinfo_consumers(keys.stream(stream), GROUPS[stream]):
            if row["pending"]:
                found.add((keys.partition, row["name"]))
    return found


async def remove(redis: Any, stream: StreamName) -> int:
    """How many pending entries went with the consumers."""
    return sum(
        [
            await redis.xgroup_delconsumer(PARTITION_KEYS[partition].stream(stream), GROUPS[stream], name)
            for partition, name in await holders(redis, stream)
        ]
    )


@pytest.mark.parametrize("lives", [True, False], ids=["lives on", "is dead"])
@pytest.mark.parametrize("stream", HOLDERS)
async def test_what_a_removed_consumer_held_is_neither_lost_nor_handled_twice(
    house: House, stream: StreamName, lives: bool
) -> None:
    """It is stopped just before the script that would handle what it holds, and does that later if it lives."""
    name, step = HOLDERS[stream]
    cids = await house.contents(12)
    with Proxy.before(house.stack.redis_url_of(name)) as proxy:
        (holder,) = await house.restart(name, settings={"RESHELVE_REDIS_URL": proxy.url})
        trap = proxy.trap(script(step), "before")
        assert await house.view(dict.fromkeys(cids, 1500)) == 202
        await trap.hit()
        async with house.redis() as redis:
            assert await remove(redis, stream) > 0
        if lives:
            trap.release()
        else:
            holder.kill()
            await house.restart(name)
        world = await house.judge()
        await house.restart(name)
    assert {world.rows[cid][0] for cid in cids} == {"silver"}
    assert sum(cid in cids for _, cid, *_ in world.relocations) == len(cids)
    assert {world.states[cid]["count"] for cid in cids} == {"1500"}
