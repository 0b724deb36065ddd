"""Entries that were delivered and are in nobody's hands any more, and the names of consumers long dead.

Seen to fail with `await self._sweep.run(now)` taken out of `Reclaiming.stale`.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from shared.consume import Consumer
from shared.keys import GROUPS
from shared.state.moves import RawEntry
from tests.consumers import Lines, consuming, until
from tests.streams import P, Streams

LEASE_MS = 300


async def orphaned(seen: Streams, number: int) -> list[bytes]:
    """Entries whose consumer was removed by hand."""
    ids = [await seen.add_raw("moves", ["n", str(n)]) for n in range(number)]
    assert len(await seen.deliver("moves", "gone")) == number
    await seen.redis.xgroup_delconsumer(seen.keys().stream("moves"), GROUPS["moves"], "gone")
    assert await seen.pending("moves") == {}
    return ids


async def taken(consumer: Consumer, number: int) -> list[RawEntry]:
    entries: list[RawEntry] = []
    async with asyncio.timeout(15):
        while len(entries) < number:
            entries += await consumer.take(1000, wait=False)
            await asyncio.sleep(0.01)
    return entries


def in_order(entries: list[RawEntry]) -> list[bytes]:
    """Their ids as the stream orders them: an id's parts are numbers, so 9-10 comes after 9-9."""
    return sorted((entry.entry_id for entry in entries), key=lambda entry_id: [int(n) for n in entry_id.split(b"-")])


async def test_what_a_removed_consumer_held_is_handed_out_again(seen: Streams, redis_db: str) -> None:
    ids, lines = await orphaned(seen, 3), Lines()
    fresh = await seen.add_raw("moves", ["n", "fresh"])
    async with consuming(seen.scripts, redis_db, lease_ms=LEASE_MS, lines=lines) as consumer:
        entries = await taken(consumer, 4)
    assert in_order(entries) == [*ids, fresh]
    assert [line["entries"] for line in lines.named("found in nobody's hands")] == [3]


async def test_more_than_a_page_of_them_between_entries_in_living_hands(seen: Streams, redis_db: str) -> None:
    held = [await seen.add_raw("moves", ["n", str(n)]) for n in range(150)]
    await seen.deliver("moves", "living")
    ids = await orphaned_beside(seen, 250)
    async with consuming(seen.scripts, redis_db, lease_ms=60_000) as consumer:
        entries = await taken(consumer, 250)
        assert await consumer.take(1000, wait=False) == []
    assert in_order(entries) == ids
    owners = Counter((await seen.pending("moves")).values())
    assert owners == {"living": len(held), consumer.name: len(ids)}


async def orphaned_beside(seen: Streams, number: int) -> list[bytes]:
    ids = [await seen.add_raw("moves", ["n", str(n)]) for n in range(number)]
    await seen.deliver("moves", "gone")
    await seen.redis.xgroup_delconsumer(seen.keys().stream("moves"), GROUPS["moves"], "gone")
    return ids


async def test_redis_that_does_not_know_how_much_is_undelivered(seen: Streams, redis_db: str) -> None:
    """An entry that was deleted before it was delivered leaves the lag unknown."""
    ids = await orphaned(seen, 2)
    rest = [await seen.add_raw("moves", ["n", "x"]) for _ in range(3)]
    await seen.redis.xdel(seen.keys().stream("moves"), rest[1])
    info = (await seen.redis.xinfo_groups(seen.keys().stream("moves")))[0]
    assert info["lag"] is None
    async with consuming(seen.scripts, redis_db, lease_ms=LEASE_MS) as consumer:
        entries = await taken(consumer, 4)
    assert in_order(entries) == [*ids, rest[0], rest[2]]


async def test_several_that_look_at_once_get_each_entry_once(seen: Streams, redis_db: str) -> None:
    ids = await orphaned(seen, 40)
    async with (
        consuming(seen.scripts, redis_db, lease_ms=60_000) as one,
        consuming(seen.scripts, redis_db, lease_ms=60_000) as two,
    ):
        entries: list[RawEntry] = []
        async with asyncio.timeout(15):
            while len(entries) < len(ids):
                for found in await asyncio.gather(one.take(8, wait=False), two.take(8, wait=False)):
                    entries += found
    assert in_order(entries) == ids


async def test_entries_in_hands_and_entries_that_are_new_are_no_orphans(seen: Streams, redis_db: str) -> None:
    await seen.add_raw("moves", ["n", "held"])
    await seen.deliver("moves", "living")
    await seen.add_raw("moves", ["n", "new"])
    key, group = seen.keys().stream("moves"), GROUPS["moves"]
    assert await seen.scripts.call("adopt", [key], [group, "me", LEASE_MS, "-", 100]) == [0, b""]
    assert await seen.pending("moves") == {(await seen.redis.xrange(key))[0][0]: "living"}


async def test_names_of_the_dead_are_removed_but_not_of_those_that_hold_or_live(seen: Streams, redis_db: str) -> None:
    key, group = seen.keys().stream("moves"), GROUPS["moves"]
    await seen.add_raw("moves", ["n", "held"])
    await seen.deliver("moves", "holding")
    await seen.redis.xgroup_createconsumer(key, group, "dead")
    async with consuming(seen.scripts, redis_db, lease_ms=100_000) as consumer:
        await consumer.take(1, wait=False)
        assert {"dead", "holding"} <= await seen.consumers("moves")
    await asyncio.sleep(0.4)
    await seen.redis.xgroup_createconsumer(key, group, "living")
    # Ten leases are 300 ms here; "living" has been there for less.
    async with consuming(seen.scripts, redis_db, lease_ms=30) as consumer:
        await consumer.take(1, wait=False)

        async def gone() -> bool:
            return "dead" not in await seen.consumers("moves", P)

        await until(gone)
        # What "holding" held has been taken over by now; its name goes only once it is empty-handed.
        assert "living" in await seen.consumers("moves")
