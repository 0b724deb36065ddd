from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from shared.keys import GROUPS
from shared.messages import Tally
from shared.state.joining import Argument
from shared.state.scripts import Scripts
from tests.consumers import consuming
from tests.streams import PARTITIONS, P, Streams

LEASE_MS = 400
SUSPECT = 5


async def reclaim(seen: Streams, cursor: bytes = b"-", limit: int = 10, lease_ms: int = 0) -> list[Any]:
    """As Consumer's reading calls it; there it cannot be seen which cursor came back."""
    stream = seen.keys().stream("views")
    arguments: list[Argument] = [GROUPS["views"], "two", lease_ms, cursor, limit, SUSPECT]
    reply: list[Any] = await seen.scripts.call("reclaim", [stream], arguments)
    return reply


async def handed(seen: Streams, number: int, consumer: str = "one") -> list[bytes]:
    for _ in range(number):
        await seen.add_raw("views", ["v1", "{}"])
    return [entry.entry_id for entry in await seen.deliver("views", consumer)]


# --- reclaim ----------------------------------------------------------------------------------------------------------


async def test_entries_without_a_sign_of_life_change_hands_with_their_fields(seen: Streams) -> None:
    ids = await handed(seen, 2)
    cursor, suspects, *rows = await reclaim(seen)
    assert (cursor, suspects) == (b"-", 0)
    assert rows == [[entry_id, 2, [b"v1", b"{}"]] for entry_id in ids]
    assert await seen.pending("views") == dict.fromkeys(ids, "two")


async def test_each_time_an_entry_changes_hands_is_counted(seen: Streams) -> None:
    (entry_id,) = await handed(seen, 1)
    counts = [(await reclaim(seen))[2][1] for _ in range(4)]
    assert counts == [2, 3, 4, 5]
    assert await seen.deliveries("views") == {entry_id: 5}


async def test_entries_within_their_lease_stay_where_they_are(seen: Streams) -> None:
    await handed(seen, 2)
    before = await seen.everything()
    assert await reclaim(seen, lease_ms=60_000) == [b"-", 0]
    assert await seen.everything() == before


async def test_what_is_more_than_asked_for_is_found_from_the_cursor_on(seen: Streams) -> None:
    ids = await handed(seen, 5)
    found: list[bytes] = []
    cursor = b"-"
    for _ in range(3):
        cursor, _, *rows = await reclaim(seen, cursor, limit=2)
        found += [row[0] for row in rows]
    assert found == ids
    assert cursor == b"-"


async def test_an_entry_that_was_deleted_while_pending_is_passed_over(seen: Streams) -> None:
    gone, there = await handed(seen, 2)
    await seen.redis.xdel(seen.keys().stream("views"), gone)
    _, _, *rows = await reclaim(seen)
    assert [row[0] for row in rows] == [there]
    assert await seen.pending("views") == {there: "two"}


async def test_what_was_handed_out_often_is_left_where_it_is_and_reported(seen: Streams) -> None:
    often, once = await handed(seen, 2)
    await count_as_handed_out(seen, often, SUSPECT)
    _, suspects, *rows = await reclaim(seen)
    assert (suspects, [row[0] for row in rows]) == (1, [once])
    assert (await seen.pending("views"))[often] == "one"


async def count_as_handed_out(seen: Streams, entry_id: bytes, times: int) -> None:
    await seen.redis.xclaim(seen.keys().stream("views"), GROUPS["views"], "one", 0, [entry_id], retrycount=times)


# --- suspect ----------------------------------------------------------------------------------------------------------


async def suspect(seen: Streams, lease_ms: int = 0, end: bytes = b"+") -> list[Any]:
    """As Consumer calls it; there it calls only where a reclaiming has just seen a suspect beyond its lease."""
    terms: list[Argument] = [GROUPS["views"], "two", lease_ms, SUSPECT, 2 * SUSPECT, end]
    letter: list[Argument] = ["views", "consumers died", "why"]
    keys = [seen.keys().stream("views"), seen.keys().dead]
    reply: list[Any] = await seen.scripts.call("suspect", keys, [*terms, *letter])
    return reply


@pytest.mark.parametrize("times", [SUSPECT, 2 * SUSPECT])
async def test_only_what_was_handed_out_often_is_a_suspect_beyond_its_lease_and_before_the_end(
    seen: Streams, times: int
) -> None:
    once, often = await handed(seen, 2)
    await count_as_handed_out(seen, often, times)
    before = await seen.everything()
    assert await suspect(seen, lease_ms=60_000) == []
    assert await suspect(seen, end=b"(" + often) == []
    assert await seen.everything() == before
    if times == SUSPECT:
        assert await suspect(seen) == [often, times + 1, [b"v1", b"{}"]]
        assert await seen.pending("views") == {once: "one", often: "two"}
    else:
        assert await suspect(seen) == [often, times]
        assert await seen.pending("views") == {once: "one"}
        assert [letter["reason"] for letter in await seen.dead()] == ["consumers died"]
    assert await suspect(seen, end=b"(" + often) == []


# --- renew ------------------------------------------------------------------------------------------------------------


async def test_renewing_keeps_what_is_ours_and_does_not_count_as_a_delivery(seen: Streams, redis_db: str) -> None:
    await seen.add("views", Tally.empty())
    async with consuming(seen.scripts, redis_db, ["views"], lease_ms=LEASE_MS) as consumer:
        (entry,) = await consumer.take(10)
        await asyncio.sleep(0.1)
        assert (await seen.idle_ms("views"))[entry.entry_id] >= 90
        await consumer._renew()
        assert (await seen.idle_ms("views"))[entry.entry_id] < 90
        assert consumer.holds(entry)
    assert await seen.deliveries("views") == {entry.entry_id: 1}


async def test_renewing_does_not_steal_an_entry_back(seen: Streams, redis_db: str) -> None:
    for _ in range(2):
        await seen.add("views", Tally.empty())
    async with consuming(seen.scripts, redis_db, ["views"]) as consumer:
        stolen, kept = await consumer.take(10)
        await seen.redis.xclaim(seen.keys().stream("views"), GROUPS["views"], "thief", 0, [stolen.entry_id])
        await consumer._renew()
        assert (consumer.holds(stolen), consumer.holds(kept), consumer.held) == (False, True, 1)
        assert await seen.pending("views") == {stolen.entry_id: "thief", kept.entry_id: consumer.name}


async def test_renewing_forgets_what_was_handled(seen: Streams, redis_db: str) -> None:
    await seen.add("views", Tally.empty())
    async with consuming(seen.scripts, redis_db, ["views"]) as consumer:
        (entry,) = await consumer.take(10)
        await seen.redis.xack(seen.keys().stream("views"), GROUPS["views"], entry.entry_id)
        await consumer._renew()
        assert consumer.held == 0
        assert await seen.pending("views") == {}


# --- hand back --------------------------------------------------------------------------------------------------------


async def test_what_is_handed_back_can_be_taken_at_once_by_others(seen: Streams, redis_db: str) -> None:
    for p in range(PARTITIONS):
        await seen.add("views", Tally.empty(), p)
    async with (
        consuming(seen.scripts, redis_db, ["views"]) as first,
        consuming(seen.scripts, redis_db, ["views"]) as second,
    ):
        entries = await first.take(100)
        assert len(entries) == PARTITIONS
        assert await second.take(100, wait=False) == []
        await first.hand_back(entries[1:])
        assert first.held == 1
        second._reclaiming.due_at = 0
        taken = await second.take(100, wait=False)
        assert {entry.entry_id for entry in taken} == {entry.entry_id for entry in entries[1:]}
        assert {entry.deliveries for entry in taken} == {2}
        assert list((await seen.pending("views", entries[0].partition)).values()) == [first.name]


async def test_handing_back_what_another_holds_leaves_it_there(seen: Streams, redis_db: str) -> None:
    await seen.add("views", Tally.empty())
    async with consuming(seen.scripts, redis_db, ["views"]) as consumer:
        (entry,) = await consumer.take(10)
        await seen.redis.xclaim(seen.keys().stream("views"), GROUPS["views"], "owner", 0, [entry.entry_id])
        await consumer.hand_back([entry])
        assert consumer.held == 0
        assert await seen.pending("views") == {entry.entry_id: "owner"}
        assert (await seen.idle_ms("views"))[entry.entry_id] < 10_000


async def test_handing_back_twice_or_after_handling_is_no_harm(seen: Streams, redis_db: str) -> None:
    await seen.add("views", Tally.empty())
    async with consuming(seen.scripts, redis_db, ["views"]) as consumer:
        (entry,) = await consumer.take(10)
        await consumer.hand_back([entry])
        await consumer.hand_back([entry])
        await seen.redis.xack(seen.keys().stream("views"), GROUPS["views"], entry.entry_id)
        await consumer.hand_back([entry])
        assert await seen.pending("views") == {}


class _SlowToRenew(Scripts):
    """A renewal takes its time to reach Redis; other calls overtake it."""

    async def call(self, name: str, keys: Sequence[str], arguments: Iterable[Argument]) -> Any:
        if name == "renew":
            await asyncio.sleep(0.3)
        return await super().call(name, keys, arguments)


async def test_what_is_handed_back_while_its_lease_is_renewed_can_be_taken_at_once(
    seen: Streams, redis_db: str
) -> None:
    """As at every stop: it ends the waiting of both. Seen to fail once in fifty stops before the two took turns."""
    await seen.add("views", Tally.empty())
    stop = asyncio.Event()
    async with consuming(_SlowToRenew(seen.redis, PARTITIONS), redis_db, ["views"], stop=stop) as consumer:
        entries = await consumer.take(10)
        stop.set()
        renewing = asyncio.create_task(consumer.keep_leases())
        await asyncio.sleep(0.15)
        await consumer.hand_back(entries)
        await renewing
        assert (await seen.idle_ms("views"))[entries[0].entry_id] >= 30_000


# --- leave ------------------------------------------------------------------------------------------------------------


async def test_a_consumer_leaves_where_it_holds_nothing(seen: Streams, redis_db: str) -> None:
    await seen.add("views", Tally.empty(), P)
    async with consuming(seen.scripts, redis_db, ["views"]) as consumer:
        (entry,) = await consumer.take(10)
        for p in range(PARTITIONS):
            # Redis 7.0 makes a consumer of a reader only when it gets something.
            await seen.redis.xgroup_createconsumer(seen.keys(p).stream("views"), GROUPS["views"], consumer.name)
        await consumer.leave()
        assert [consumer.name in await seen.consumers("views", p) for p in range(PARTITIONS)] == [
            False, False, True, False,
        ]  # fmt: skip
        # Removing it there would lose what it holds.
        assert await seen.pending("views") == {entry.entry_id: consumer.name}
        await consumer.leave()
