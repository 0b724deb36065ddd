"""Two recorders whose batches hold the same rows' neighbours in opposite order: neither deadlocks with the other."""

from __future__ import annotations

import asyncio

from tests.faults.house import House


async def test_two_recorders_with_rows_in_opposite_order_record_each_once(house: House) -> None:
    """Both get what was placed, from partitions of which neither knows the other's order, again and again."""
    house.stack.start("recorder")
    await house.stack.ready()
    cids = await house.contents(60)
    for total in (1500, 2500, 100):
        order = cids if total == 2500 else cids[::-1]
        assert all(
            status == 202
            for status in await asyncio.gather(*(house.total(dict.fromkeys(order[i::6], total)) for i in range(6)))
        )
        world = await house.judge()
    assert sum(cid in cids for _, cid, *_ in world.relocations) == 3 * len(cids)
    logs = [service.log.read_text() for service in house.stack.named("recorder")]
    assert all('"committed"' in log for log in logs), "one of the two had nothing to do"
    assert not any("eadlock" in log for log in logs)
    await house.restart("recorder")
