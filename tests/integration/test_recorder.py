"""The recorder as it is wired, while servers and connections fail. See test_recording for its verdicts one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cli.migrate import migrate
from cli.servers import PrivateMySQL
from services.recorder.__main__ import record
from services.recorder.settings import RecorderSettings
from shared.catalog import Commitments, Connections
from shared.messages import Placed
from shared.settings import SecretStr
from tests.consumers import until
from tests.loops import at_work
from tests.samples import a_placed, cids_of
from tests.streams import CID, OTHER, PARTITIONS, THIRD, Streams
from tests.tables import Tables
from tests.wire import Lost, Wire


def settings_of(redis_url: str, mysql_url: str, lease_ms: int = 30_000) -> RecorderSettings:
    return RecorderSettings(
        redis_url=SecretStr(redis_url), mysql_url=SecretStr(mysql_url), partitions=PARTITIONS, lease_ms=lease_ms
    )


async def put(seen: Streams, tables: Tables, cid: str, level_root: Path) -> Placed:
    """A content whose copy is placed on silver and waits for its commit."""
    placed = a_placed(cid, from_path=str(level_root / "bronze"), to_path=str(level_root / "silver"))
    await tables.put(cid, filename=placed.filename)
    await seen.put_content(cid, level="bronze", status="done", move_id=placed.move_id, attempt=1, version=3)
    await seen.add("placed", placed, seen.scripts.of(cid).partition)
    return placed


async def retired(seen: Streams) -> list[str]:
    """The cids whose retire is ordered."""
    return [entry["cid"] for p in range(PARTITIONS) for entry in await seen.entries("retires", p)]


async def all_retired(seen: Streams, number: int, timeout_s: float = 15) -> None:
    async def done() -> bool:
        return len(await retired(seen)) >= number

    await until(done, timeout_s)


async def test_it_waits_for_a_mysql_that_is_away_and_goes_on(
    seen: Streams, redis_db: str, tmp_path: Path, level_root: Path
) -> None:
    server = PrivateMySQL.start(tmp_path / "mysql")
    try:
        await migrate(server.url, level_root)
        tables = Tables(server.url)
        async with at_work(record, settings_of(redis_db, server.url, lease_ms=2000)) as (_, lines):
            first = await put(seen, tables, CID, level_root)
            await all_retired(seen, 1)
            second = a_placed(OTHER, from_path=first.from_path, to_path=first.to_path)
            await tables.put(OTHER, filename=second.filename)
            await seen.put_content(OTHER, level="bronze", status="done", move_id=second.move_id, attempt=1, version=3)
            await asyncio.to_thread(server.stop)
            await seen.add("placed", second)

            async def waits() -> bool:
                return bool(lines.named("waiting for a server"))

            await until(waits)
            await asyncio.sleep(0.5)
            assert await retired(seen) == [CID]
            assert len(await seen.pending("placed")) == 1
            server = await asyncio.to_thread(PrivateMySQL.start, tmp_path / "mysql")
            await all_retired(seen, 2, timeout_s=30)
        assert lines.named("going on")
        assert sorted(row[0] for row in await tables.relocated()) == sorted([first.move_id, second.move_id])
        assert len(await tables.history()) == 2
        assert await seen.dead() == []
    finally:
        server.stop()


async def test_a_stop_while_mysql_is_away_ends_it_and_another_takes_over_at_once(
    seen: Streams, redis_db: str, database: str, level_root: Path
) -> None:
    """With a lease of half a minute, nothing may stay in the hands of one that has ended."""
    tables = Tables(database)
    await put(seen, tables, CID, level_root)
    nowhere = "mysql://u:p@127.0.0.1:1/d"
    async with at_work(record, settings_of(redis_db, nowhere)) as (_, lines):

        async def waits() -> bool:
            return bool(lines.named("waiting for a server"))

        await until(waits)
    assert await retired(seen) == []
    async with at_work(record, settings_of(redis_db, database)):
        await all_retired(seen, 1, timeout_s=5)


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_connection_lost_at_mysqls_commit_records_once_and_retires_once(
    seen: Streams, redis_db: str, database: str, level_root: Path, lost: Lost
) -> None:
    tables = Tables(database)
    placed = await put(seen, tables, CID, level_root)
    async with Wire.to(database) as wire:
        # The driver sends the first COMMIT itself, when it connects.
        wire.lose(lost, [b"\x03COMMIT"], 2)
        async with at_work(record, settings_of(redis_db, wire.url)):
            await all_retired(seen, 1)
        assert wire.breaks == 1
    assert [row[0] for row in await tables.relocated()] == [placed.move_id]
    assert await tables.history() == [(CID, "bronze", "silver")]
    assert await retired(seen) == [CID]
    assert (await seen.content())["status"] == "retiring"


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_connection_lost_at_redis_script_records_once_and_retires_once(
    seen: Streams, redis_db: str, database: str, level_root: Path, lost: Lost
) -> None:
    """MySQL has committed; Redis is told until it has answered."""
    tables = Tables(database)
    for cid in (CID, OTHER, THIRD):
        await put(seen, tables, cid, level_root)
    async with Wire.to(redis_db) as wire:
        # Only the commit script is called with this stream.
        wire.lose(lost, [b":retires"])
        async with at_work(record, settings_of(wire.url, database)):
            await all_retired(seen, 3)
            await asyncio.sleep(0.2)
        assert wire.breaks == 1
    assert sorted(await retired(seen)) == sorted([CID, OTHER, THIRD])
    assert len(await tables.relocated()) == 3
    assert (await seen.entries("placed"), await seen.pending("placed")) == ([], {})


async def test_what_a_dead_recorder_had_committed_is_followed_up_without_a_second_row(
    seen: Streams, redis_db: str, database: str, level_root: Path
) -> None:
    """It died between MySQL's commit and the script; its lease runs out."""
    tables = Tables(database)
    placed = await put(seen, tables, CID, level_root)
    connections = Connections(database)
    await seen.deliver("placed", "dead")
    assert await Commitments(connections).commit([placed], 5) == ["commit"]
    await connections.close()
    async with at_work(record, settings_of(redis_db, database, lease_ms=300)):
        await all_retired(seen, 1)
    assert len(await tables.relocated()) == 1
    assert await tables.history() == [(CID, "bronze", "silver")]


async def test_a_number_beyond_all_bounds_is_buried_and_crashes_nobody(
    seen: Streams, redis_db: str, database: str, level_root: Path
) -> None:
    flat = a_placed(OTHER, bytes=10**18).wire()
    await seen.add_raw("placed", flat)
    await put(seen, Tables(database), CID, level_root)
    async with at_work(record, settings_of(redis_db, database)):
        await all_retired(seen, 1)
    (letter,) = await seen.dead()
    assert letter["reason"] == "undecodable"
    assert letter["detail"].startswith("field 'bytes' is not as it must be")
    assert letter["f:cid"] == OTHER


async def test_two_recorders_commit_each_copy_once(
    seen: Streams, redis_db: str, database: str, level_root: Path
) -> None:
    tables = Tables(database)
    cids = [cid for p in range(PARTITIONS) for cid in cids_of(p, 30)]
    async with at_work(record, settings_of(redis_db, database)), at_work(record, settings_of(redis_db, database)):
        for cid in cids:
            await put(seen, tables, cid, level_root)
        await all_retired(seen, len(cids), timeout_s=40)
    assert sorted(await retired(seen)) == sorted(cids)
    assert len(await tables.relocated()) == len(cids)
    assert sorted(cid for cid, _, _ in await tables.history()) == sorted(cids)
    assert [await seen.dead(p) for p in range(PARTITIONS)] == [[]] * PARTITIONS
