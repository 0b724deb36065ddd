"""Transactions beside a recorder's: another recorder makes none deadlock; whom somebody else makes deadlock repeats."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import asyncmy
import pytest

from shared.catalog import sql
from shared.mysql_url import parse_mysql_url
from tests.faults.house import House, keys_of, query, until
from tests.faults.servers import Servers


async def test_two_recorders_at_once_record_each_relocation_once_and_do_not_deadlock(house: House) -> None:
    """Both take from all partitions, again and again.

    Seen to fail (deadlocks) where the look for moves that are committed already locks the gaps in which the other's
    are to be inserted. That rows are locked in one order is shown in tests/integration/test_commitments.py.
    """
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


@pytest.mark.parametrize("contents", [1, 2])
async def test_a_batch_that_is_the_victim_of_a_deadlock_is_rolled_back_and_repeated_whole(
    house: House, servers: Servers, contents: int
) -> None:
    """Error 1213, by an operator who holds the last row of the batch, then wants the level table, and has more to lose.

    Seen to fail (one is a dead letter, two are recorded one by one) where 1213 is not among the errors after which a
    batch is repeated.
    """
    heavy = await house.contents(40)
    by_partition: dict[int, list[str]] = defaultdict(list)
    for cid in await house.contents(6):
        by_partition[keys_of(cid).partition].append(cid)
    # Of one partition, so that they are in one batch.
    cids = sorted(next(them for them in by_partition.values() if len(them) > 1)[:contents])
    for service in house.stack.named("recorder"):
        assert service.stop() == 0
    assert await house.view(dict.fromkeys(cids, 1500)) == 202
    await until(lambda: house.waiting("placed", contents), "all is placed")
    outside = await asyncmy.connect(**parse_mysql_url(house.mysql_url).connect_arguments())
    try:
        async with outside.cursor() as cursor:
            # InnoDB rolls back whoever changed fewer rows.
            for cid in (*heavy, cids[-1]):
                await cursor.execute(f"UPDATE contents SET update_time = NOW(6) + INTERVAL 1 DAY WHERE cid = '{cid}'")
            (recorder,) = house.stack.start("recorder")
            await until(lambda: waits_for_a_lock(servers.mysql.admin_url), "the recorder waits for the last row")
            await cursor.execute(sql.LOCK_LEVELS)
        await outside.rollback()
    finally:
        outside.close()
    world = await house.judge()
    assert sorted(cid for _, cid, *_ in world.relocations if cid in cids) == cids
    assert sorted(change for change in world.changes if change[0] in cids) == [
        (cid, "bronze", "silver") for cid in cids
    ]
    assert recorder.process.poll() is None
    assert "eadlock" in recorder.log.read_text()


async def waits_for_a_lock(admin_url: str) -> bool:
    # InnoDB shows an old picture for as long as it is asked more than ten times a second.
    await asyncio.sleep(0.3)
    rows = await query(admin_url, "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
    return int(rows[0][0]) > 0
