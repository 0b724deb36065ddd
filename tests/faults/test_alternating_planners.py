"""Two planners that hold alternate entries, as they do once both have waited for those of a dead third."""

from __future__ import annotations

from services.planner.tally import Tallying
from shared.messages import Tally
from shared.state.moves import DeadLetters
from shared.state.views import Tallies
from tests.consumers import Lines, consuming
from tests.streams import CID, P, Streams, connected


async def test_planners_with_alternate_entries_do_not_wait_for_each_other_for_ever(redis_db: str) -> None:
    """Found by the soak: with a batch that waits as a whole for an older entry, neither ever counted anything."""
    async with connected(redis_db) as scripts, consuming(scripts, redis_db, ["views"]) as consumer:
        seen = Streams(scripts)
        await seen.make_groups()
        one, two = (
            Tallying(consumer, Tallies(scripts), DeadLetters(scripts), Lines().log, crossed=lambda: None)
            for _ in range(2)
        )
        for tally in (Tally({CID: 7}, {}), Tally({}, {CID: 900}), Tally({CID: 99}, {}), Tally({}, {CID: 50})):
            await seen.add("views", tally)
        for turn in range(4):
            entries = await seen.deliver("views", f"planner {turn % 2}", limit=1)
            assert await (one, two)[turn % 2]._sort_in(entries) == []
        for _ in range(2):
            await one._apply_partition(P)
            await two._apply_partition(P)
        assert await seen.entries("views", P) == []
        assert (await seen.content())["count"] == "50"
