"""The level table, health and the document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.ingest.app import OPENAPI
from tests.conftest import execute
from tests.ingest_app import Running, call, running_ingest


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


async def test_malformed_and_unsupported_bodies(ingest: Running) -> None:
    for method, path in (("POST", "/v1/contents"), ("PUT", "/v1/levels")):
        headers = {"Content-Type": "application/json"}
        assert (await call(ingest, method, path, data=b"{", headers=headers))[0] == 400
        assert (await call(ingest, method, path, data=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415


async def test_the_level_table(tracked: Running, level_root: Path) -> None:
    status, levels = await call(tracked, "GET", "/v1/levels")
    assert (status, [level["content_level"] for level in levels]) == (200, ["bronze", "silver", "gold"])
    assert levels[0] == {"content_level": "bronze", "min_counts": 0, "max_counts": 999, "path": f"{level_root}/bronze"}
    new = [{**levels[0], "max_counts": 9}, {**levels[1], "min_counts": 10, "content_level": "tin"}]
    assert await call(tracked, "PUT", "/v1/levels", json=new[::-1]) == (200, new)
    assert await call(tracked, "GET", "/v1/levels") == (200, new)
    for table, status, words in (
        ([{**levels[0], "max_counts": 998}, *levels[1:]], 400, "level ranges leave 999-999 to nobody"),
        ([{**levels[0], "max_counts": 1000}, *levels[1:]], 400, "both claim"),
        ([], 400, "is empty"),
        ({}, 400, "must be an array"),
        ([{**levels[1], "min_counts": 0}], 409, "bronze holds contents: keep it"),
        ([{**levels[0], "path": "/elsewhere"}], 409, "its path must stay"),
    ):
        got, problem = await call(tracked, "PUT", "/v1/levels", json=table)
        assert (got, words in problem["detail"]) == (status, True), problem
    assert await call(tracked, "GET", "/v1/levels") == (200, new)


async def test_a_level_table_that_somebody_left_unsound(tracked: Running, database: str) -> None:
    await asyncio.to_thread(execute, database, "DELETE FROM level WHERE content_level = 'silver'")
    status, problem = await call(tracked, "GET", "/v1/levels")
    assert (status, "level table is not sound" in problem["detail"]) == (503, True)


async def test_health_and_the_document(ingest: Running) -> None:
    assert await call(ingest, "GET", "/healthz") == (200, {"status": "alive"})
    assert await call(ingest, "GET", "/readyz") == (200, {"status": "ready"})
    async with ingest.http.get("/openapi.json") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.read() == OPENAPI.read_bytes()
