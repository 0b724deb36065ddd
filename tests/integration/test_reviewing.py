"""The planner's reviews in this process, against a real Redis and a real catalog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from services.planner.level_table import LevelTable
from services.planner.review import Reviewing
from shared.catalog import Catalog, Connections, Registry
from shared.levels import Level, Levels
from shared.messages import Tally
from shared.state.contents import Contents
from shared.state.reviews import Reviews
from shared.state.views import Tallies
from tests.conftest import execute
from tests.streams import CID, PARTITIONS, P, Streams, connected, now_ms

_LEASE_MS = 30_000


class Planning:
    """One planner, its hands held: it reviews when told."""

    def __init__(self, streams: Streams, connections: Connections) -> None:
        log = structlog.get_logger()
        self.streams = streams
        self.contents = Contents(streams.scripts)
        self.registry = Registry(connections)
        catalog = Catalog(connections)
        self.table = LevelTable(catalog, self.contents, streams.redis, log)
        self.reviewing = Reviewing(Reviews(streams.scripts), catalog, log, table=self.table)

    async def view(self, cid: str, *, views: int = 0, total: int | None = None) -> None:
        tally = Tally.empty()
        if total is not None:
            tally.total(cid, total)
        if views:
            tally.views(cid, views)
        await self.streams.add("views", tally)
        ids = [entry.entry_id for entry in await self.streams.deliver("views")]
        outcome = await Tallies(self.streams.scripts).apply(P, ids, tally, now_ms())
        assert outcome.outcome == "counted"

    async def review(self, partition: int = P, lease_ms: int = _LEASE_MS) -> None:
        await self.table.load()
        await self.reviewing.apply(await self.reviewing.gather([partition], 100, lease_ms))

    async def sweep(self) -> None:
        """What the level table's loop does once."""
        stop = asyncio.Event()
        running = asyncio.create_task(self.table.run(stop))
        await asyncio.sleep(0.5)
        stop.set()
        await running


@pytest.fixture
async def planning(redis_db: str, database: str) -> AsyncIterator[Planning]:
    connections = Connections(database)
    async with connected(redis_db) as scripts:
        streams = Streams(scripts)
        await streams.make_groups()
        yield Planning(streams, connections)
    await connections.close()


async def moves(planning: Planning) -> list[tuple[str, str, str]]:
    found = await planning.streams.said("moves")
    return [(entry["from"], entry["to"], entry["count"]) for entry in found]


async def test_a_new_content_starts_at_its_levels_least_count(planning: Planning) -> None:
    """Otherwise importing files that lie on gold, and one view, would demote them all."""
    await planning.registry.register(CID, "a.mp4", "gold")
    await planning.view(CID, views=3)
    await planning.review()
    assert await moves(planning) == []
    state = await planning.streams.content()
    assert (state["count"], state["level"], state["status"]) == ("2003", "gold", "idle")
    assert await planning.streams.reviews() == {}


async def test_a_content_that_redis_lost_starts_at_its_last_relocations_count(
    planning: Planning, database: str
) -> None:
    await planning.registry.register(CID, "a.mp4", "silver")
    execute(
        database,
        "INSERT INTO relocations VALUES ('01234567-89ab-7cde-8f01-23456789abcd', "
        f"'{CID}', 'bronze', 'silver', 1998, 'why', 1, '', 'link', 'm', 1, 1, 1, 1)",
    )
    await planning.view(CID, views=2)
    await planning.review()
    assert await moves(planning) == [("silver", "gold", "2000")]


async def test_a_total_needs_no_start(planning: Planning) -> None:
    await planning.registry.register(CID, "a.mp4", "gold")
    await planning.view(CID, total=12)
    await planning.review()
    assert await moves(planning) == [("gold", "bronze", "12")]


async def test_a_level_changed_by_hand_is_respected_at_the_next_review(planning: Planning, database: str) -> None:
    await planning.registry.register(CID, "a.mp4", "bronze")
    await planning.view(CID, views=5)
    await planning.review()
    execute(database, f"UPDATE contents SET content_level = 'gold' WHERE cid = '{CID}'")
    await planning.view(CID, total=1500)
    await planning.review()
    assert await moves(planning) == [("gold", "silver", "1500")]


async def test_views_of_an_unknown_content_are_kept_until_it_is_registered(planning: Planning) -> None:
    await planning.view(CID, views=1200)
    await planning.review()
    assert (await planning.streams.content())["status"] == "unknown"
    await planning.registry.register(CID, "a.mp4", "bronze")
    await planning.contents.touch([CID])
    await planning.review()
    assert await moves(planning) == [("bronze", "silver", "1200")]


async def test_a_content_on_its_way_is_left_to_its_settling(planning: Planning) -> None:
    await planning.registry.register(CID, "a.mp4", "bronze")
    await planning.view(CID, total=1500)
    await planning.review()
    await planning.contents.touch([CID], "all")
    await planning.review()
    assert len(await moves(planning)) == 1
    assert await planning.streams.reviews() == {}


async def test_a_changed_level_table_puts_known_contents_up_for_review(
    planning: Planning, database: str, level_root: Path
) -> None:
    await planning.registry.register(CID, "a.mp4", "bronze")
    await planning.registry.register("never-viewed", "b.mp4", "bronze")
    await planning.sweep()
    await planning.view(CID, total=500)
    await planning.review()
    assert await planning.streams.reviews() == {}
    narrow = Levels([Level("bronze", 0, 99, str(level_root / "bronze")), Level("silver", 100, 1999, "/silver")])
    execute(database, "DELETE FROM level WHERE content_level IN ('gold', 'silver')")
    await planning.registry.replace_levels(narrow)
    await planning.sweep()
    assert set(await planning.streams.reviews()) == {CID}
    await planning.review()
    assert await moves(planning) == [("bronze", "silver", "500")]


async def test_two_planners_that_review_at_once_open_one_relocation(planning: Planning) -> None:
    await planning.registry.register(CID, "a.mp4", "bronze")
    await planning.view(CID, total=1500)
    await planning.table.load()
    await asyncio.gather(*(planning.review(p, lease_ms=1) for _ in range(4) for p in range(PARTITIONS)))
    await asyncio.sleep(0.01)
    await planning.review(lease_ms=1)
    assert len(await moves(planning)) == 1
