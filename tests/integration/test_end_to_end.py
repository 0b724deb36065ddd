"""The whole way with four real processes: views in over HTTP, files relocated, rows written, all settled."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import pytest

from shared.catalog import Connections, Registry
from tests.accounts import Accounts
from tests.oracle import Expected, Oracle, counts_of, sha256
from tests.stack import SERVICES, Stack

_CONTENTS = 500


@dataclass
class Library:
    """Contents that lie on bronze, tracked; what they hold."""

    level_root: Path
    files: dict[str, bytes]

    def expected(self, counts: Mapping[str, int] | None = None) -> dict[str, Expected]:
        counts = counts or {}
        return {cid: Expected(sha256(data), counts.get(cid)) for cid, data in self.files.items()}


def _name(number: int) -> str:
    """Some beneath directories, some with names that a shell would trip over."""
    if number % 5 == 0:
        return f"shows/season {number % 7}/e{number}.mp4"
    return f"-film ü{number}.mp4" if number % 11 == 0 else f"film-{number}.mp4"


@pytest.fixture
async def stack(redis_db: str, database: str, tmp_path: Path, accounts: Accounts) -> AsyncIterator[Stack]:
    """Each service logs in with rights for its own work alone."""
    running = Stack(redis_db, database, tmp_path, redis_urls=accounts.redis_urls, mysql_urls=accounts.mysql_urls)
    # Other tests have themselves refused on purpose.
    before = accounts.denials(redis_db)
    try:
        running.start(*SERVICES)
        await running.ready()
        yield running
        codes = running.stop()
        assert codes == {name: [0] * len(codes[name]) for name in SERVICES}
        assert running.errors() == []
        assert accounts.denials(redis_db) == before
    finally:
        running.stop()


@pytest.fixture
async def library(database: str, level_root: Path) -> Library:
    rng = random.Random(7)
    files = {str(n): rng.randbytes(rng.randrange(0, 20_000)) for n in range(_CONTENTS)}
    for cid, data in files.items():
        file = level_root / "bronze" / _name(int(cid))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    connections = Connections(database)
    try:
        refused = await Registry(connections).register_many([(cid, _name(int(cid))) for cid in files], "bronze")
    finally:
        await connections.close()
    assert refused == []
    return Library(level_root, files)


async def _post_lines(session: aiohttp.ClientSession, stack: Stack, views: list[dict[str, object]]) -> None:
    body = b"\n".join(orjson.dumps(view) for view in views)
    headers = {"Content-Type": "application/x-ndjson"}
    async with session.post(f"{stack.http}/v1/views", data=body, headers=headers) as answer:
        assert answer.status == 202, await answer.text()
        assert await answer.json() == {"accepted": len(views), "rejected": []}


async def test_five_hundred_contents_come_to_rest_on_the_level_for_their_count(
    stack: Stack, library: Library, redis_db: str, database: str
) -> None:
    rng = random.Random(11)
    views = [(str(min(int(rng.paretovariate(0.6)) - 1, _CONTENTS - 1)), rng.randrange(1, 40)) for _ in range(20_000)]
    async with aiohttp.ClientSession() as session:
        batches = [views[i : i + 200] for i in range(0, len(views), 200)]
        for start in range(0, len(batches), 8):
            await asyncio.gather(
                *(
                    _post_lines(session, stack, [{"cid": cid, "views": n} for cid, n in batch])
                    for batch in batches[start : start + 8]
                )
            )
    counts = counts_of(views)
    oracle = Oracle(redis_db, database)
    try:
        world = await oracle.judge(library.expected(counts))
    finally:
        await oracle.close()
    levels = {level for level, _ in world.rows.values()}
    assert levels == {"bronze", "silver", "gold"}
    assert len(world.relocations) >= sum(count >= 1000 for count in counts.values())


async def test_totals_demote_and_promote(stack: Stack, library: Library, redis_db: str, database: str) -> None:
    oracle = Oracle(redis_db, database)
    counts: dict[str, int] = {}
    try:
        async with aiohttp.ClientSession() as session:
            for total in (1964, 2500, 12, 1000, 999, 3001, 4_000_000):
                counts = {str(n): total + n % 3 for n in range(60)}
                await _post_lines(session, stack, [{"cid": cid, "count": count} for cid, count in counts.items()])
                world = await oracle.judge(library.expected(counts))
        assert {old_new[1:] for old_new in world.changes} >= {
            ("bronze", "silver"),
            ("silver", "gold"),
            ("gold", "bronze"),
            ("silver", "bronze"),
        }
    finally:
        await oracle.close()


async def test_a_total_and_the_increments_after_it_add_up(
    stack: Stack, library: Library, redis_db: str, database: str
) -> None:
    oracle = Oracle(redis_db, database)
    try:
        async with aiohttp.ClientSession() as session:
            for step in ({"count": 900}, {"views": 99}, {"views": 1}, {"count": 5}, {}):
                await _post_lines(session, stack, [{"cid": "7", **step}])
        await oracle.judge(library.expected({"7": 6}))
    finally:
        await oracle.close()


async def test_a_registered_file_is_promoted_and_its_story_told(
    stack: Stack, level_root: Path, redis_db: str, database: str
) -> None:
    data = os.urandom(100_000)
    (level_root / "bronze" / "g.mp4").write_bytes(data)
    oracle = Oracle(redis_db, database)
    try:
        async with aiohttp.ClientSession(stack.http) as session:
            async with session.post("/v1/contents", json={"cid": "7", "filename": "g.mp4"}) as answer:
                assert answer.status == 201, await answer.text()
            async with session.post("/post_sentence", data={"cid": "7", "count": "1964"}) as answer:
                assert await answer.json() == {
                    "cid": "7",
                    "count": "1964",
                    "target": "silver",
                    "db_level": "bronze",
                    "filename": "g.mp4",
                    "worker_id": None,
                    "status": "update",
                }
            await oracle.judge({"7": Expected(sha256(data), 1964)})
            assert (level_root / "silver" / "g.mp4").read_bytes() == data
            async with session.post("/update_sentence", data={"cid": "7"}) as answer:
                assert (await answer.text()).strip() == "7"
            async with session.get("/v1/contents/7") as answer:
                content = await answer.json()
                assert (content["level"], content["count"], content["status"]) == ("silver", 1964, "idle")
            async with session.get("/v1/contents/7/history") as answer:
                assert answer.status == 200
    finally:
        await oracle.close()


async def test_a_missing_source_is_a_dead_letter_with_its_reason(
    stack: Stack, library: Library, redis_db: str, database: str
) -> None:
    (library.level_root / "bronze" / _name(1)).unlink()
    oracle = Oracle(redis_db, database)
    try:
        async with aiohttp.ClientSession() as session:
            await _post_lines(session, stack, [{"cid": "1", "count": 1500}, {"cid": "2", "count": 1500}])
        files = {cid: data for cid, data in library.files.items() if cid != "1"}
        world = await oracle.judge(Library(library.level_root, files).expected({"2": 1500}), dead_allowed=True)
    finally:
        await oracle.close()
    assert world.dead == {"1": "source missing"}
    assert world.states["1"]["status"] == "failed"


async def test_a_target_that_exists_is_not_overwritten(
    stack: Stack, library: Library, redis_db: str, database: str
) -> None:
    foreign = library.level_root / "silver" / _name(3)
    foreign.write_bytes(b"somebody else's")
    oracle = Oracle(redis_db, database)
    try:
        async with aiohttp.ClientSession() as session:
            await _post_lines(session, stack, [{"cid": "3", "count": 1500}])
        world = await oracle.judge(library.expected(), dead_allowed=True)
    finally:
        await oracle.close()
    assert world.dead == {"3": "target exists"}
    assert foreign.read_bytes() == b"somebody else's"
