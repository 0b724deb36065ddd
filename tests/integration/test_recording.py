"""The recorder's loop in this process, against a real Redis and a real catalog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.recorder.record import Recording
from shared.catalog import Catalog, Commitments, Connections, Registry
from shared.consume import Consumer, Terms
from shared.messages import Placed
from shared.redis_client import connect
from shared.state.moves import Commits, DeadLetters
from tests.conftest import execute
from tests.samples import a_placed
from tests.streams import CID, OTHER, THIRD, Streams, connected
from tests.tables import Tables


class Recorder:
    """One recorder that runs while a test looks on."""

    def __init__(self, streams: Streams, connections: Connections, redis_url: str, level_root: Path) -> None:
        self.streams = streams
        self.catalog = Catalog(connections)
        self.registry = Registry(connections)
        self.level_root = level_root
        self.stop = asyncio.Event()
        log = structlog.get_logger()
        scripts = streams.scripts
        self.reader = connect(redis_url, timeout_s=30)
        self.consumer = Consumer(scripts, self.reader, ["placed"], terms=Terms(30_000, 5), log=log, stop=self.stop)
        self.recording = Recording(self.consumer, Commitments(connections), Commits(scripts), DeadLetters(scripts), log)

    async def put(self, cid: str, **changes: Any) -> Placed:
        """A content whose copy is placed on silver and waits for its commit."""
        paths = {"from_path": str(self.level_root / "bronze"), "to_path": str(self.level_root / "silver")}
        placed = a_placed(cid, **(paths | changes))
        await self.streams.put_content(cid, level="bronze", status="done", move_id=placed.move_id, attempt=1, version=3)
        await self.streams.add("placed", placed)
        return placed

    async def until(self, done: Callable[[], Any], grace_ms: int = 0, limit: int = 100) -> None:
        """Run, with batches of `limit`, until `done` gives something true."""
        running = asyncio.create_task(self.recording.run(limit, grace_ms, self.stop))
        try:
            async with asyncio.timeout(10):
                while not await done():  # noqa: ASYNC110  # it is Redis that is looked at
                    await asyncio.sleep(0.02)
        finally:
            self.stop.set()
            await running
        assert self.consumer.held == 0


@pytest.fixture
async def recorder(redis_db: str, database: str, level_root: Path) -> AsyncIterator[Recorder]:
    connections = Connections(database)
    async with connected(redis_db) as scripts:
        streams = Streams(scripts)
        await streams.make_groups()
        running = Recorder(streams, connections, redis_db, level_root)
        yield running
        await running.reader.aclose()
    await connections.close()


async def test_a_placed_copy_is_committed_and_its_retire_ordered(recorder: Recorder) -> None:
    await recorder.registry.register(CID, f"dir/{CID}.mp4", "bronze")
    placed = await recorder.put(CID)
    await recorder.until(lambda: recorder.streams.entries("retires"))
    (retire,) = await recorder.streams.said("retires")
    assert (retire["move_id"], retire["target_id"], retire["not_before"]) == (placed.move_id, placed.target_id, "0")
    assert await recorder.streams.entries("placed") == []
    content = await recorder.streams.content()
    assert (content["level"], content["status"], content["attempt"]) == ("silver", "retiring", "0")
    assert (await recorder.catalog.rows((CID,)))[CID].level == "silver"


async def test_a_retire_with_grace_waits_for_its_time(recorder: Recorder) -> None:
    await recorder.registry.register(CID, f"dir/{CID}.mp4", "bronze")
    await recorder.put(CID)
    await recorder.until(recorder.streams.later, grace_ms=60_000)
    ((entry, _),) = await recorder.streams.later()
    assert entry[0] == "retires"
    assert await recorder.streams.entries("retires") == []


async def test_an_entry_that_cannot_be_read_is_buried_and_the_rest_goes_on(recorder: Recorder) -> None:
    await recorder.registry.register(CID, f"dir/{CID}.mp4", "bronze")
    await recorder.streams.add_raw("placed", ["nonsense", b"\xff\x00"])
    await recorder.put(CID)
    await recorder.until(lambda: recorder.streams.entries("retires"))
    (letter,) = await recorder.streams.dead()
    assert (letter["origin"], letter["reason"], letter["f:nonsense"]) == ("placed", "undecodable", "\xff\x00")


async def test_a_contradiction_is_a_dead_letter_and_orders_no_retire(recorder: Recorder) -> None:
    """Were the retire ordered all the same, the copy that the catalog names could be removed."""
    await recorder.registry.register(CID, f"dir/{CID}.mp4", "gold")
    await recorder.put(CID)
    await recorder.until(recorder.streams.dead)
    (letter,) = await recorder.streams.dead()
    assert letter["reason"] == "catalog conflict"
    assert (await recorder.streams.content())["status"] == "failed"
    assert await recorder.streams.entries("retires") == []


async def test_what_the_catalog_refuses_is_found_out_among_the_others(recorder: Recorder, database: str) -> None:
    """One row is refused by the server itself: it alone becomes a dead letter, and nothing of it stays behind."""
    for cid in (CID, OTHER, THIRD):
        await recorder.registry.register(cid, f"dir/{cid}.mp4", "bronze")
        await recorder.put(cid)

    async def done() -> bool:
        return len(await recorder.streams.entries("retires")) == 2 and bool(await recorder.streams.dead())

    refusing = f"IF NEW.cid = '{OTHER}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
    execute(database, f"CREATE TRIGGER refusing BEFORE INSERT ON relocations FOR EACH ROW {refusing}")
    try:
        await recorder.until(done)
    finally:
        execute(database, "DROP TRIGGER refusing")
    (letter,) = await recorder.streams.dead()
    assert (letter["f:cid"], letter["reason"]) == (OTHER, "catalog refused")
    assert (await recorder.catalog.rows((OTHER,)))[OTHER].level == "bronze"


async def test_a_second_word_on_the_same_content_is_judged_after_the_first(recorder: Recorder) -> None:
    await recorder.registry.register(CID, f"dir/{CID}.mp4", "bronze")
    first = await recorder.put(CID)
    await recorder.streams.add("placed", first)
    await recorder.until(lambda: recorder.streams.entries("retires"))
    assert len(await recorder.catalog.relocations(CID, 10)) == 1


async def test_a_batch_that_waits_in_mysql_keeps_no_other_from_its_end(recorder: Recorder, database: str) -> None:
    """Somebody holds the row of the first; the second is committed and its retire ordered meanwhile."""
    for cid in (CID, OTHER):
        await recorder.registry.register(cid, f"dir/{cid}.mp4", "bronze")
        await recorder.put(cid)
    async with Tables(database).session() as run:
        await run("BEGIN")
        await run(f"SELECT cid FROM contents WHERE cid = '{CID}' FOR UPDATE")

        async def the_second_alone() -> bool:
            if [retire["cid"] for retire in await recorder.streams.said("retires")] != [OTHER]:
                return False
            await run("ROLLBACK")
            return True

        await recorder.until(the_second_alone, limit=1)
    assert {retire["cid"] for retire in await recorder.streams.said("retires")} == {CID, OTHER}


async def test_two_batches_with_the_same_content_are_not_under_way_together(recorder: Recorder, database: str) -> None:
    await recorder.registry.register(CID, f"dir/{CID}.mp4", "bronze")
    first = await recorder.put(CID)
    await recorder.streams.add("placed", first)
    locking = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%WHERE cid IN%FOR UPDATE%'"
    seen: list[int] = []
    async with Tables(database).session() as run, Tables(database).session() as look:
        await run("BEGIN")
        await run(f"SELECT cid FROM contents WHERE cid = '{CID}' FOR UPDATE")

        async def looked_often() -> bool:
            ((waiting,),) = await look(f"{locking} AND info NOT LIKE '%processlist%'")
            seen.append(int(waiting))
            if len(seen) < 20 or not seen[-1]:
                return False
            await run("ROLLBACK")
            return True

        await recorder.until(looked_often, limit=1)
    assert max(seen) == 1
    assert len(await recorder.catalog.relocations(CID, 10)) == 1
    assert await recorder.streams.dead() == []
