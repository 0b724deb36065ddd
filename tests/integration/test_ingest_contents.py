"""Contents and their history, against a real Redis and a real MySQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from shared.moveid import new_move_id
from tests.ingest_app import MOVE, Running, call, open_move, record_move, running_ingest
from tests.streams import Streams


@pytest.fixture
async def ingest(redis_db: str, database: str) -> AsyncIterator[Running]:
    async with running_ingest(redis_db, database) as running:
        await running.ready()
        yield running


@pytest.fixture
async def tracked(ingest: Running, level_root: Path) -> Running:
    """Content 7 is tracked, on bronze."""
    (level_root / "bronze" / "g.mp4").write_bytes(b"film")
    status, _ = await call(ingest, "POST", "/v1/contents", json={"cid": "7", "filename": "g.mp4"})
    assert status == 201
    return ingest


async def test_registering(ingest: Running, level_root: Path) -> None:
    (level_root / "bronze" / "a").mkdir()
    (level_root / "bronze" / "a" / "é.mp4").touch()
    async with ingest.http.post("/v1/contents", json={"cid": "x:1", "filename": "a/é.mp4"}) as answer:
        assert (answer.status, answer.headers["Location"]) == (201, "/v1/contents/x:1")
        created = await answer.json()
    assert created == {
        "cid": "x:1",
        "filename": "a/é.mp4",
        "level": "bronze",
        "path": f"{level_root}/bronze/a/é.mp4",
        "count": 0,
        "status": "idle",
        "target": None,
        "why": None,
        "move_id": None,
        "worker_id": None,
        "error": None,
        "last_relocation": None,
    }
    assert await call(ingest, "GET", "/v1/contents/x:1") == (200, created)
    for cid, filename, words in (("x:1", "b", "cid 'x:1'"), ("x:2", "a/é.mp4", "filename 'a/é.mp4'")):
        status, problem = await call(ingest, "POST", "/v1/contents", json={"cid": cid, "filename": filename})
        assert (status, words in problem["detail"]) == (409, True)


async def test_views_that_came_before_the_registration_are_reviewed(ingest: Running, level_root: Path) -> None:
    (level_root / "bronze" / "g.mp4").touch()
    keys = ingest.scripts.of("7")
    await Streams(ingest.scripts).put_content("7", count=1500, status="unknown")
    status, content = await call(ingest, "POST", "/v1/contents", json={"cid": "7", "filename": "g.mp4"})
    assert (status, content["count"], content["status"]) == (201, 1500, "idle")
    assert await ingest.scripts.redis.zrange(keys.review, 0, -1) == [b"7"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"cid": "7", "filename": "missing.mp4"}, 422, "no file 'missing.mp4' on level bronze"),
        ({"cid": "7", "filename": "link"}, 422, "not a regular file"),
        ({"cid": "7", "filename": "up/g.mp4"}, 422, "following a link"),
        ({"cid": "7", "filename": "../silver/g.mp4"}, 400, "component '..'"),
        ({"cid": "7", "filename": "/etc/passwd"}, 400, "absolute"),
        ({"cid": "7", "filename": "a\0b"}, 400, "NUL"),
        ({"cid": "7", "filename": "a" * 256}, 400, "at most 255"),
        ({"cid": "7", "filename": "ü" * 701}, 400, "at most 700"),
        ({"cid": "7", "filename": ".reshelve.x"}, 400, "reserved"),
        ({"cid": "7"}, 400, "filename must be a string"),
        ({"cid": "a b", "filename": "g.mp4"}, 400, "is not 1-64"),
        ({"filename": "g.mp4"}, 400, "cid must be a string"),
        ([], 400, "must be an object"),
    ],
)
async def test_registrations_that_are_refused(
    ingest: Running, level_root: Path, body: Any, status: int, words: str
) -> None:
    (level_root / "silver" / "g.mp4").touch()
    (level_root / "bronze" / "up").symlink_to(level_root / "silver")
    (level_root / "bronze" / "link").symlink_to(level_root / "silver" / "g.mp4")
    got, problem = await call(ingest, "POST", "/v1/contents", json=body)
    assert (got, words in problem["detail"]) == (status, True), problem
    assert await ingest.catalog.rows(["7"]) == {}


async def test_a_level_that_ingest_cannot_see(ingest: Running, level_root: Path) -> None:
    (level_root / "bronze").rmdir()
    status, problem = await call(ingest, "POST", "/v1/contents", json={"cid": "7", "filename": "g.mp4"})
    assert (status, "cannot look into the directory of level bronze" in problem["detail"]) == (503, True)


async def test_forgetting(tracked: Running, level_root: Path) -> None:
    await open_move(tracked)
    status, problem = await call(tracked, "DELETE", "/v1/contents/7")
    assert (status, "relocation of '7' is open (update)" in problem["detail"]) == (409, True)
    await Streams(tracked.scripts).lose("7")
    await record_move(tracked, level_root, MOVE)
    assert await call(tracked, "DELETE", "/v1/contents/7") == (204, None)
    assert (await call(tracked, "DELETE", "/v1/contents/7"))[0] == 404
    assert (await call(tracked, "GET", "/v1/contents/7"))[0] == 404
    assert (level_root / "bronze" / "g.mp4").exists()
    status, history = await call(tracked, "GET", "/v1/contents/7/history")
    assert (status, len(history["items"])) == (200, 2)
    status, _ = await call(tracked, "POST", "/v1/contents", json={"cid": "7", "filename": "g.mp4"})
    assert status == 201


async def test_a_content_with_an_open_relocation(tracked: Running) -> None:
    await open_move(tracked)
    status, content = await call(tracked, "GET", "/v1/contents/7")
    assert status == 200
    assert content["status"] == "update"
    assert (content["target"], content["why"], content["move_id"]) == ("silver", MOVE.why, MOVE.move_id)


async def test_history_in_pages(tracked: Running, level_root: Path) -> None:
    there, back = MOVE, structs.replace(MOVE, move_id=new_move_id(), from_level="silver", to_level="bronze")
    await record_move(tracked, level_root, there, 5)
    await record_move(tracked, level_root, back, 6)
    _, whole = await call(tracked, "GET", "/v1/contents/7/history")
    assert [item["kind"] for item in whole["items"]] == ["level_change"] * 2 + ["relocation"] * 2
    assert whole["next"] is None
    assert [item["move_id"] for item in whole["items"][2:]] == [back.move_id, there.move_id]
    paged: list[Any] = []
    before: dict[str, str] = {}
    while True:
        _, page = await call(tracked, "GET", "/v1/contents/7/history", params={"limit": "1", **before})
        paged += page["items"]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert paged == whole["items"]
    assert (await call(tracked, "GET", "/v1/contents/7"))[1]["last_relocation"]["move_id"] == back.move_id


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "limit=", "limit=1.5", "before=x", "before="])
async def test_pages_that_cannot_be(tracked: Running, query: str) -> None:
    assert (await call(tracked, "GET", f"/v1/contents/7/history?{query}"))[0] == 400


async def test_cids_in_paths(ingest: Running) -> None:
    for path in ("/v1/contents/a%20b", "/v1/contents/%00/history", "/v1/contents/" + "a" * 65):
        assert (await call(ingest, "GET", path))[0] == 400
    assert (await call(ingest, "DELETE", "/v1/contents/%C3%A9"))[0] == 400
    assert (await call(ingest, "GET", "/v1/contents/8"))[0] == 404
    assert (await call(ingest, "GET", "/v1/contents/8/history"))[0] == 404
