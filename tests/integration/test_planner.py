"""The planner as it is wired: its tally, its level table, its loops together. See test_reviewing for the decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.migrate import migrate
from cli.servers import PrivateMySQL
from services.planner.__main__ import plan
from services.planner.level_table import LevelTable, fingerprint
from services.planner.settings import PlannerSettings
from shared.catalog import Catalog, Connections
from shared.keys import GROUPS, META
from shared.levels import COUNT_MAX
from shared.messages import Tally
from shared.settings import SecretStr
from shared.state.contents import Contents
from shared.state.views import Tallies
from tests.consumers import Lines, until
from tests.loops import at_work
from tests.samples import SAMPLE_LEVELS, cids_of
from tests.streams import CID, OTHER, PARTITIONS, THIRD, P, Streams, now_ms
from tests.tables import Tables
from tests.wire import Lost, Wire


@pytest.fixture
def tables(database: str) -> Tables:
    return Tables(database)


def settings_of(redis_url: str, mysql_url: str, **changes: Any) -> PlannerSettings:
    return PlannerSettings(
        redis_url=SecretStr(redis_url), mysql_url=SecretStr(mysql_url), **({"partitions": PARTITIONS} | changes)
    )


async def view(seen: Streams, cid: str, *, views: int = 0, total: int | None = None) -> bytes:
    tally = Tally({cid: views} if total is None else {}, {} if total is None else {cid: total})
    return await seen.add("views", tally, seen.scripts.of(cid).partition)


async def counts(seen: Streams, cid: str, count: int, timeout_s: float = 15) -> None:
    """Returns when the content has that count, and no entry waits."""

    async def done() -> bool:
        return (await seen.content(cid)).get("count") == str(count)

    await until(done, timeout_s)


async def opened(seen: Streams) -> list[dict[str, str]]:
    return [entry for p in range(PARTITIONS) for entry in await seen.said("moves", p)]


async def rests(seen: Streams, cid: str) -> None:
    async def done() -> bool:
        return "hi" in await seen.content(cid) and cid not in await seen.reviews()

    await until(done)


# --- the whole of it --------------------------------------------------------------------------------------------------


async def test_views_become_counts_and_counts_become_moves(
    seen: Streams, tables: Tables, redis_db: str, database: str, level_root: Path
) -> None:
    for cid in (CID, OTHER, THIRD):
        await tables.put(cid)
    async with at_work(plan, settings_of(redis_db, database)):
        await view(seen, CID, views=400)
        await rests(seen, CID)
        await view(seen, CID, views=700)
        await view(seen, OTHER, total=2500)
        await view(seen, THIRD, views=999)

        async def both() -> bool:
            return len(await opened(seen)) == 2

        await until(both)
        await rests(seen, THIRD)
        await view(seen, CID, views=10_000)
        await counts(seen, CID, 11_100)
        await asyncio.sleep(0.4)
    moves = {move["cid"]: move for move in await opened(seen)}
    assert (moves[CID]["to"], moves[CID]["count"]) == ("silver", "1100")
    assert (moves[OTHER]["to"], moves[OTHER]["count"]) == ("gold", "2500")
    assert (moves[OTHER]["from_path"], moves[OTHER]["to_path"]) == (
        str(level_root / "bronze"),
        str(level_root / "gold"),
    )
    assert moves[CID]["why"] == "count 1100 belongs on silver (1000-1999), not bronze (0-999)"
    assert len(await opened(seen)) == 2
    assert await seen.dead() == []
    assert (await seen.content(THIRD))["count"] == "999"


async def test_a_content_registered_later_gets_the_views_that_came_before(
    seen: Streams, tables: Tables, redis_db: str, database: str
) -> None:
    async with at_work(plan, settings_of(redis_db, database)):
        await view(seen, CID, views=1500)

        async def kept() -> bool:
            return (await seen.content()).get("status") == "unknown"

        await until(kept)
        await tables.put(CID)
        assert await Contents(seen.scripts).touch([CID]) == 1

        async def moves() -> bool:
            return bool(await opened(seen))

        await until(moves)
    assert [move["count"] for move in await opened(seen)] == ["1500"]


async def test_views_are_counted_while_mysql_is_away_and_reviewed_when_it_is_back(
    seen: Streams, redis_db: str, tmp_path: Path, level_root: Path
) -> None:
    server = PrivateMySQL.start(tmp_path / "mysql")
    try:
        await migrate(server.url, level_root)
        await Tables(server.url).put(CID)
        async with at_work(plan, settings_of(redis_db, server.url)) as (_, lines):
            await view(seen, CID, views=5)
            await rests(seen, CID)
            await asyncio.to_thread(server.stop)
            await view(seen, CID, views=1500)
            await counts(seen, CID, 1505)

            async def waits() -> bool:
                return any(line["doing"] == "review" for line in lines.named("waiting for a server"))

            await until(waits)
            assert await opened(seen) == []
            server = await asyncio.to_thread(PrivateMySQL.start, tmp_path / "mysql")
            # Claimed by the review that failed; an operator need not wait for the lease.
            await Contents(seen.scripts).touch([CID])

            async def moves() -> bool:
                return bool(await opened(seen))

            await until(moves, 30)
    finally:
        server.stop()


# --- the tally --------------------------------------------------------------------------------------------------------


async def test_all_partitions_are_counted_and_nothing_is_left(seen: Streams, redis_db: str, database: str) -> None:
    cids = [cid for p in range(PARTITIONS) for cid in cids_of(p, 5)]
    for n, cid in enumerate(cids):
        await view(seen, cid, views=n)
        await view(seen, cid, views=100)
    async with at_work(plan, settings_of(redis_db, database, tally_limit=4)):
        for n, cid in enumerate(cids):
            await counts(seen, cid, n + 100)
    for p in range(PARTITIONS):
        assert (await seen.entries("views", p), await seen.pending("views", p)) == ([], {})


async def test_an_entry_that_cannot_be_read_is_buried_and_the_rest_is_counted(
    seen: Streams, redis_db: str, database: str
) -> None:
    await view(seen, CID, views=1)
    await seen.add_raw("views", ["v1", "{not json"])
    await view(seen, CID, views=2)
    await seen.add_raw("views", ["x1", '{"add":{}}'])
    await view(seen, CID, views=4)
    async with at_work(plan, settings_of(redis_db, database)):
        await counts(seen, CID, 7)
    assert [letter["reason"] for letter in await seen.dead()] == ["undecodable", "undecodable"]
    assert await seen.entries("views") == []


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_an_outage_at_the_burial_ends_nothing(seen: Streams, redis_db: str, database: str, lost: Lost) -> None:
    await seen.add_raw("views", ["v1", "{not json"])
    await view(seen, CID, views=2)
    async with Wire.to(redis_db) as wire:
        wire.lose(lost, [b"undecodable"])
        async with at_work(plan, settings_of(wire.url, database)):
            await counts(seen, CID, 2)
        assert wire.breaks == 1
    assert [letter["reason"] for letter in await seen.dead()] == ["undecodable"]


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_connection_lost_at_the_tally_counts_each_view_once(
    seen: Streams, redis_db: str, database: str, lost: Lost
) -> None:
    """What waits in all partitions is counted by one command."""
    cids = [cids_of(p, 1)[0] for p in range(PARTITIONS)]
    for cid in cids:
        await view(seen, cid, views=7)
    async with Wire.to(redis_db) as wire:
        # Only the tally's arguments are the group, one entry, the largest count.
        wire.lose(lost, [b"\r\nplanner\r\n$1\r\n1\r\n$16\r\n%d\r\n" % COUNT_MAX])
        async with at_work(plan, settings_of(wire.url, database)):
            for cid in cids:
                await counts(seen, cid, 7)
            await asyncio.sleep(0.2)
        assert wire.breaks == 1
    assert [(await seen.content(cid))["count"] for cid in cids] == ["7"] * PARTITIONS


async def test_newer_entries_wait_for_an_older_one_in_other_hands_and_keep_their_order(
    seen: Streams, redis_db: str, database: str
) -> None:
    await view(seen, CID, total=100)
    (older,) = await seen.deliver("views", "another")
    await view(seen, CID, views=5)
    async with at_work(plan, settings_of(redis_db, database)):
        await asyncio.sleep(0.4)
        await view(seen, CID, views=1)
        await asyncio.sleep(0.4)
        assert await seen.content() == {}
        tally = Tally({}, {CID: 100})
        answer = await Tallies(seen.scripts).apply(P, [older.entry_id], tally, now_ms())
        assert answer.outcome == "counted"
        await counts(seen, CID, 106)
    assert await seen.entries("views") == []


async def test_an_older_entry_whose_holder_died_is_counted_before_the_newer_ones(
    seen: Streams, redis_db: str, database: str
) -> None:
    await view(seen, CID, views=50)
    await seen.deliver("views", "dead")
    await view(seen, CID, total=100)
    await view(seen, CID, views=5)
    async with at_work(plan, settings_of(redis_db, database, lease_ms=500)):
        await counts(seen, CID, 105)
        await asyncio.sleep(0.2)
    assert (await seen.content())["count"] == "105"
    assert await seen.entries("views") == []


async def test_no_more_than_some_batches_are_held_while_an_older_entry_is_waited_for(
    seen: Streams, redis_db: str, database: str
) -> None:
    """The backlog stays in Redis; the older entry is taken over all the same once its holder is dead."""
    await view(seen, CID, total=100)
    await seen.deliver("views", "dead")
    packed = Tally({CID: 1}, {}).pack()
    async with seen.redis.pipeline(transaction=False) as pipe:
        for _ in range(300):
            pipe.xadd(seen.keys().stream("views"), {"v1": packed})
        await pipe.execute()
    held = 0
    async with at_work(plan, settings_of(redis_db, database, tally_limit=4, lease_ms=3500)):
        for _ in range(25):
            await asyncio.sleep(0.1)
            held = max(held, len(await seen.pending("views")))
        assert await seen.content() == {}
        await counts(seen, CID, 400, timeout_s=40)
    assert 8 < held <= 70


async def test_what_another_planner_counted_meanwhile_is_dropped(seen: Streams, redis_db: str, database: str) -> None:
    """The planner holds two entries, behind an older one; of the two, another counts the first."""
    await view(seen, CID, views=1)
    (older,) = await seen.deliver("views", "another")
    await view(seen, CID, views=10)
    await view(seen, CID, views=100)
    async with at_work(plan, settings_of(redis_db, database)):

        async def three() -> bool:
            return len(await seen.pending("views")) == 3

        await until(three)
        middle = sorted(await seen.pending("views"))[1]
        tallies = Tallies(seen.scripts)
        ids = [older.entry_id, middle]
        assert (await tallies.apply(P, ids, Tally({CID: 11}, {}), now_ms())).outcome == "counted"
        await counts(seen, CID, 111)
    assert await seen.pending("views") == {}


async def test_a_stop_hands_back_what_waits(seen: Streams, redis_db: str, database: str) -> None:
    await view(seen, CID, views=1)
    (older,) = await seen.deliver("views", "another")
    await view(seen, CID, views=10)
    async with at_work(plan, settings_of(redis_db, database)):

        async def both() -> bool:
            return len(await seen.pending("views")) == 2

        await until(both)
    idle = await seen.idle_ms("views")
    newer = max(idle)
    assert newer != older.entry_id
    assert idle[newer] >= 30_000
    await seen.redis.xclaim(seen.keys().stream("views"), GROUPS["views"], "another", 0, [older.entry_id], idle=60_000)
    async with at_work(plan, settings_of(redis_db, database)):
        await counts(seen, CID, 11, timeout_s=5)


async def test_two_planners_count_each_view_once_and_open_each_move_once(
    seen: Streams, tables: Tables, redis_db: str, database: str
) -> None:
    cids = [cid for p in range(PARTITIONS) for cid in cids_of(p, 5)]
    for cid in cids:
        await tables.put(cid)
    settings = settings_of(redis_db, database, tally_limit=8)
    async with at_work(plan, settings), at_work(plan, settings):
        for _ in range(15):
            await asyncio.gather(*(view(seen, cid, views=100) for cid in cids))
        for cid in cids:
            await counts(seen, cid, 1500, timeout_s=40)

        async def all_open() -> bool:
            return len(await opened(seen)) == len(cids)

        await until(all_open, 40)
        await asyncio.sleep(0.4)
    assert sorted(move["cid"] for move in await opened(seen)) == sorted(cids)


async def test_an_emptied_redis_is_counted_on(seen: Streams, tables: Tables, redis_db: str, database: str) -> None:
    await tables.put(CID)
    async with at_work(plan, settings_of(redis_db, database)):
        await view(seen, CID, views=5)
        await rests(seen, CID)
        await seen.redis.flushdb()
        await view(seen, CID, views=7)
        await counts(seen, CID, 7)
        await rests(seen, CID)


# --- the level table --------------------------------------------------------------------------------------------------


async def a_table(seen: Streams, connections: Connections, lines: Lines) -> LevelTable:
    table = LevelTable(Catalog(connections), Contents(seen.scripts), seen.redis, lines.log)
    await table.load()
    return table


@pytest.fixture
async def connections(database: str) -> AsyncIterator[Connections]:
    pool = Connections(database)
    yield pool
    await pool.close()


async def test_a_changed_table_is_swept_once_by_many_planners(
    seen: Streams, tables: Tables, connections: Connections
) -> None:
    for cid in (CID, OTHER, THIRD):
        await tables.put(cid)
    await tables.put_relocation(OTHER, "m1")
    await seen.put_content(CID, status="idle", count=5)
    lines = Lines()
    planners = [await a_table(seen, connections, lines) for _ in range(6)]
    for _ in range(3):
        await asyncio.gather(*(planner._check() for planner in planners))
    # The third is on the level it was put on, and Redis knows nothing of it: any table that counts from 0 keeps it.
    assert (await seen.reviews()).keys() == {CID, OTHER}
    assert [line["reviews"] for line in lines.named("level table taken over")] == [2]
    await seen.redis.delete(seen.keys().review)
    await tables.query("UPDATE level SET max_counts = 9000 WHERE content_level = 'gold'")
    for _ in range(3):
        await asyncio.gather(*(planner._check() for planner in planners))
    assert (await seen.reviews()).keys() == {CID, OTHER}
    assert len(lines.named("level table taken over")) == 2
    assert await seen.redis.exists("reshelve:sweeping") == 0


async def test_a_planner_that_died_in_its_sweep_is_followed_by_another(
    seen: Streams, tables: Tables, connections: Connections
) -> None:
    await tables.put(CID)
    await seen.put_content(CID, status="idle")
    lines = Lines()
    planner = await a_table(seen, connections, lines)
    await seen.redis.set("reshelve:sweeping", "1", px=200)
    await planner._check()
    assert await seen.reviews() == {}
    await asyncio.sleep(0.25)
    await planner._check()
    assert (await seen.reviews()).keys() == {CID}


async def test_an_unsound_table_leaves_the_last_sound_one_in_force(
    seen: Streams, tables: Tables, connections: Connections
) -> None:
    lines = Lines()
    table = await a_table(seen, connections, lines)
    before = table.current()
    await table._check()
    stored = await seen.redis.hget(META, "levels")
    await tables.query("UPDATE level SET min_counts = 1500 WHERE content_level = 'silver'")
    await table._check()
    assert table.current() == before
    assert [line["error"] for line in lines.named("level table unsound")] == [
        "level ranges leave 1000-1499 to nobody: start silver at 1000",
    ]
    assert await seen.redis.hget(META, "levels") == stored


def test_every_part_of_a_level_changes_the_fingerprint() -> None:
    bronze, silver, gold = SAMPLE_LEVELS
    tables = [
        [bronze, silver, gold],
        [bronze, silver, replace(gold, max_counts=4000)],
        [bronze, silver, replace(gold, path="/elsewhere")],
        [bronze, silver, replace(gold, content_level="platinum")],
        [replace(bronze, max_counts=500), replace(silver, min_counts=501), gold],
        [bronze, silver],
    ]
    prints = [fingerprint(type(SAMPLE_LEVELS)(table)) for table in tables]
    assert len(set(prints)) == len(tables)
    assert fingerprint(SAMPLE_LEVELS) == prints[0]
