"""The recorder's transaction against a real server: each relocation once, whatever happens around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncmy
import pytest

from shared.catalog import Catalog, CatalogDownError, Commitments, Connections, LevelInUseError, Registry
from shared.catalog.connections import CatalogBusyError
from shared.levels import Levels
from shared.messages import Placed
from shared.mysql_url import parse_mysql_url
from tests.conftest import execute
from tests.consumers import until
from tests.samples import a_placed
from tests.tables import Tables


class Books:
    """A catalog with contents on bronze."""

    def __init__(self, url: str, level_root: Path) -> None:
        self.url = url
        self.connections = Connections(url, size=4)
        self.commitments = Commitments(self.connections)
        self.catalog = Catalog(self.connections)
        self.level_root = level_root

    async def track(self, *cids: str) -> None:
        refused = await Registry(self.connections).register_many([(cid, f"dir/{cid}.mp4") for cid in cids], "bronze")
        assert refused == []

    def placed(self, cid: str, source: str = "bronze", target: str = "silver", **changes: Any) -> Placed:
        paths = {"from_path": str(self.level_root / source), "to_path": str(self.level_root / target)}
        return a_placed(cid, **({"from_level": source, "to_level": target} | paths | changes))

    async def ask(self, sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncmy.connect(**parse_mysql_url(self.url).connect_arguments())
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(sql)
                return [tuple(row) for row in await cursor.fetchall()]
        finally:
            await connection.ensure_closed()

    async def levels_of(self, *cids: str) -> list[str]:
        rows = await self.catalog.rows(cids)
        return [rows[cid].level for cid in cids]


@pytest.fixture
async def books(database: str, level_root: Path) -> AsyncIterator[Books]:
    opened = Books(database, level_root)
    try:
        yield opened
    finally:
        await opened.connections.close()


async def test_a_batch_changes_levels_and_writes_both_histories(books: Books) -> None:
    await books.track("1", "2", "3")
    batch = [books.placed("3"), books.placed("1", target="gold", count=2500), books.placed("2")]
    assert await books.commitments.commit(batch, 1_700_000_000_300) == ["commit"] * 3
    assert await books.levels_of("1", "2", "3") == ["gold", "silver", "silver"]
    rows = await books.ask(
        "SELECT move_id, cid, from_level, to_level, `count`, committed_at FROM relocations ORDER BY cid"
    )
    assert rows == [
        (placed.move_id, placed.cid, "bronze", placed.to_level, placed.count, 1_700_000_000_300)
        for placed in sorted(batch, key=lambda placed: placed.cid)
    ]
    changes = await books.ask("SELECT cid, old_content_level, new_content_level FROM update_history ORDER BY cid")
    assert changes == [("1", "bronze", "gold"), ("2", "bronze", "silver"), ("3", "bronze", "silver")]
    (relocation,) = await books.catalog.relocations("1", 10)
    assert (relocation.why, relocation.digest, relocation.method) == (batch[1].why, batch[1].digest, "copy")


async def test_a_repeated_batch_changes_nothing(books: Books) -> None:
    await books.track("1")
    placed = books.placed("1")
    assert await books.commitments.commit([placed], 1) == ["commit"]
    assert await books.commitments.commit([placed], 2) == ["committed"]
    assert await books.ask("SELECT COUNT(*), MAX(committed_at) FROM relocations") == [(1, 1)]
    assert await books.ask("SELECT COUNT(*) FROM update_history") == [(1,)]


async def test_a_repeated_move_is_known_after_the_content_moved_on(books: Books) -> None:
    """The row is on bronze again; without the look into relocations, the old move would be done a second time."""
    await books.track("1")
    first = books.placed("1")
    await books.commitments.commit([first], 1)
    await books.commitments.commit([books.placed("1", source="silver", target="bronze")], 2)
    assert await books.commitments.commit([first], 3) == ["committed"]
    assert await books.levels_of("1") == ["bronze"]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM contents WHERE cid = '1'",
        "UPDATE contents SET content_level = 'bronze' WHERE cid = '1'",
        "UPDATE contents SET content_level = 'gold' WHERE cid = '1'",
        "UPDATE contents SET filename = 'other.mp4' WHERE cid = '1'",
        "UPDATE contents SET content_level = 'bronze', filename = 'other.mp4' WHERE cid = '1'",
        "UPDATE level SET path = '/elsewhere' WHERE content_level = 'silver'",
    ],
)
async def test_a_move_in_the_history_is_left_alone_whatever_came_later(books: Books, change: str) -> None:
    await books.track("1", "2")
    first, other = books.placed("1"), books.placed("2", target="gold", count=2500)
    await books.commitments.commit([first], 1)
    execute(books.url, change)
    before = await books.ask("SELECT cid, content_level, filename FROM contents WHERE cid = '1'")
    assert await books.commitments.commit([other, first], 2) == ["commit", "committed"]
    assert await books.ask("SELECT cid, content_level, filename FROM contents WHERE cid = '1'") == before
    assert await books.ask("SELECT cid, committed_at FROM relocations ORDER BY cid") == [("1", 1), ("2", 2)]


async def test_what_contradicts_is_told_and_the_rest_goes_on(books: Books) -> None:
    await books.track("1", "2", "3", "4", "5")
    execute(
        books.url,
        "UPDATE contents SET content_level = 'gold' WHERE cid = '1'",
        "UPDATE contents SET content_level = 'silver' WHERE cid = '2'",
        "UPDATE contents SET filename = 'other.mp4' WHERE cid = '3'",
        "DELETE FROM contents WHERE cid = '4'",
    )
    elsewhere = books.placed("5", to_path="/elsewhere")
    verdicts = await books.commitments.commit([*(books.placed(cid) for cid in "1234"), elsewhere], 1)
    assert verdicts[0].startswith("the catalog has the content on gold")
    assert verdicts[1] == "record"
    assert verdicts[2] == "the catalog names the file 'other.mp4'"
    assert verdicts[3] == "the content is no longer in the catalog"
    assert verdicts[4].startswith("the level silver now has the path")
    assert await books.ask("SELECT cid FROM relocations") == [("2",)]
    assert await books.levels_of("1", "3", "5") == ["gold", "bronze", "bronze"]


async def test_two_recorders_with_the_same_rows_in_opposite_order(books: Books) -> None:
    cids = [f"{n:03}" for n in range(200)]
    await books.track(*cids)
    batch = [books.placed(cid) for cid in cids]

    async def record(order: Sequence[Placed]) -> None:
        for start in range(0, len(order), 20):
            done = False
            while not done:
                try:
                    await books.commitments.commit(order[start : start + 20], 1)
                    done = True
                except CatalogBusyError:
                    await asyncio.sleep(0.01)

    await asyncio.gather(record(batch), record(batch[::-1]), record(batch[100:] + batch[:100]))
    assert await books.ask("SELECT COUNT(*), COUNT(DISTINCT cid) FROM relocations") == [(200, 200)]
    assert await books.ask("SELECT COUNT(*) FROM update_history") == [(200,)]
    assert set(await books.levels_of(*cids)) == {"silver"}


async def _are_locking(books: Books, commits: int) -> bool:
    found = await books.ask(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%WHERE cid IN%FOR UPDATE%'"
        " AND info NOT LIKE '%processlist%'"
    )
    return bool(found == [(commits,)])


async def test_two_commits_of_the_same_rows_in_opposite_order_do_not_deadlock(books: Books) -> None:
    """Both wait for the row in the middle: in the batch's own order, each would hold what the other needs then."""
    await books.track("1", "2", "3")
    batch = [books.placed(cid) for cid in "123"]
    async with Tables(books.url).session() as run:
        await run("BEGIN")
        await run("SELECT cid FROM contents WHERE cid = '2' FOR UPDATE")
        commits = [asyncio.create_task(books.commitments.commit(order, 1)) for order in (batch, batch[::-1])]
        await until(lambda: _are_locking(books, len(commits)))
        await asyncio.sleep(0.1)  # what precedes the row in the middle is locked by now
        await run("ROLLBACK")
    verdicts = await asyncio.gather(*commits)
    assert sorted(verdicts) == [["commit"] * 3, ["committed"] * 3]


async def test_a_killed_connection_leaves_nothing_half_done(books: Books) -> None:
    """The transaction waits for a row that somebody else holds, and its connection is killed there."""
    await books.track("1", "2")
    batch = [books.placed("1"), books.placed("2")]
    holder = await asyncmy.connect(**parse_mysql_url(books.url).connect_arguments())
    try:
        await holder.begin()
        async with holder.cursor() as cursor:
            await cursor.execute("SELECT cid FROM contents WHERE cid = '2' FOR UPDATE")
        waiting = asyncio.create_task(books.commitments.commit(batch, 1))
        victim = None
        while victim is None:
            await asyncio.sleep(0.05)
            found = await books.ask(
                "SELECT id FROM information_schema.processlist WHERE info LIKE '%FORCE INDEX (PRIMARY)%'"
                " AND info NOT LIKE '%processlist%'"
            )
            victim = found[0][0] if found else None
        execute(books.url, f"KILL {victim}")
        with pytest.raises(CatalogDownError):
            await waiting
    finally:
        await holder.rollback()
        await holder.ensure_closed()
    assert await books.ask("SELECT COUNT(*) FROM relocations") == [(0,)]
    assert await books.commitments.commit(batch, 2) == ["commit", "commit"]


async def test_a_level_that_holds_contents_keeps_its_path(books: Books) -> None:
    await books.track("1")
    await books.commitments.commit([books.placed("1")], 1)
    moved = Levels(
        replace(level, path="/elsewhere") if level.content_level == "silver" else level
        for level in await books.catalog.levels()
    )
    with pytest.raises(LevelInUseError, match="silver holds contents"):
        await Registry(books.connections).replace_levels(moved)


async def test_the_last_count_is_that_of_the_latest_relocation(books: Books) -> None:
    await books.track("1", "2")
    await books.commitments.commit([books.placed("1", count=1500)], 1)
    await books.commitments.commit([books.placed("1", source="silver", target="gold", count=2700)], 2)
    rows = await books.catalog.rows(("1", "2", "3"))
    assert (rows["1"].last_count, rows["2"].last_count, "3" in rows) == (2700, None, False)
