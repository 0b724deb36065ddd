"""Entries that come while their partition is being counted: a planner counts and decodes at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.planner.tally import Tallying
from shared.messages import Tally
from shared.state.moves import DeadLetters, RawEntry
from shared.state.scripts import Scripts
from shared.state.views import Tallied, Tallies
from tests.consumers import Lines, consuming
from tests.streams import CID, P, Streams


class HeldUp(Tallies):
    """The first call begins when it is let go."""

    def __init__(self, scripts: Scripts) -> None:
        super().__init__(scripts)
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def apply(self, partition: int, ids: Sequence[bytes], tally: Tally, seen_ms: int) -> Tallied:
        self.asked.set()
        await self.go.wait()
        return await super().apply(partition, ids, tally, seen_ms)


async def counted(seen: Streams, redis_db: str, *, first: Sequence[RawEntry], then: Sequence[RawEntry]) -> str:
    """The count, when `then` comes while `first` is being counted."""
    tallies = HeldUp(seen.scripts)
    async with consuming(seen.scripts, redis_db, ["views"]) as consumer:
        tallying = Tallying(consumer, tallies, DeadLetters(seen.scripts), Lines().log, crossed=lambda: None)
        assert await tallying._sort_in(first) == []
        counting = asyncio.create_task(tallying._apply_partition(P))
        await tallies.asked.wait()
        assert await tallying._sort_in(then) == []
        tallies.go.set()
        await counting
        await tallying._apply_partition(P)
        assert tallying._waiting[P] == []
    assert await seen.entries("views", P) == []
    return (await seen.content())["count"]


async def handed(seen: Streams) -> list[RawEntry]:
    for tally in (Tally({}, {CID: 900}), Tally({CID: 7}, {}), Tally({CID: 40}, {})):
        await seen.add("views", tally)
    return await seen.deliver("views", "planner")


async def test_an_older_entry_that_is_taken_over_during_a_call_is_counted_before_it(
    seen: Streams, redis_db: str
) -> None:
    older, *newer = await handed(seen)
    assert await counted(seen, redis_db, first=newer, then=[older]) == "947"


async def test_newer_entries_that_come_during_a_call_are_neither_lost_nor_counted_twice(
    seen: Streams, redis_db: str
) -> None:
    older, *newer = await handed(seen)
    assert await counted(seen, redis_db, first=[older], then=newer) == "947"


async def test_an_older_entry_amid_those_of_a_call_takes_none_of_them_with_it(seen: Streams, redis_db: str) -> None:
    older, middle, newest = await handed(seen)
    assert await counted(seen, redis_db, first=[older, newest], then=[middle]) == "947"
