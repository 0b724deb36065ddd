"""The original form API, field for field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.levels import Band
from shared.state.reviews import Resting, Reviews
from tests.ingest_app import MOVE, Running, call, open_move, record_move, running_ingest, taken_in

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


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


async def test_the_original_form_api_field_for_field(tracked: Running) -> None:
    async with tracked.http.post("/post_sentence", data="cid=7&count=1964", headers=FORM) as answer:
        assert answer.status == 200
        assert await answer.text() == (
            '{"cid":"7","count":"1964","target":"silver","db_level":"bronze","filename":"g.mp4","worker_id":null,'
            '"status":"update"}'
        )
    assert (await taken_in(tracked.scripts)).set == {"7": 1964}
    _, sentence = await call(tracked, "POST", "/post_sentence", data={"cid": "7", "count": "5"})
    assert (sentence["target"], sentence["status"]) == ("bronze", "idle")
    _, sentence = await call(tracked, "POST", "/post_sentence", data={"cid": "7", "count": "9007199254740991"})
    assert (sentence["target"], sentence["count"]) == ("gold", "9007199254740991")


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ("cid=8&count=1", 404, "no content '8' is tracked"),
        ("cid=7", 400, "count is missing"),
        ("count=7", 400, "cid is missing"),
        ("", 400, "cid is missing"),
        ("cid=7&count=", 400, "count must be an integer"),
        ("cid=7&count=-1", 400, "count must be an integer"),
        ("cid=7&count=1.5", 400, "count must be an integer"),
        ("cid=7&count=%D9%A3", 400, "count must be an integer"),
        ("cid=7&count=9007199254740992", 400, "count must be an integer"),
        ("cid=7&count=99999999999999999999999", 400, "count must be an integer"),
        ("cid=a+b&count=1", 400, "is not 1-64"),
        ("cid=7&cid=8&count=1", 400, "given twice"),
        ("cid=%ff&count=1", 400, "not a form"),
        ("nonsense", 400, "not a form"),
    ],
)
async def test_sentences_that_are_refused(tracked: Running, form: str, status: int, words: str) -> None:
    got, problem = await call(tracked, "POST", "/post_sentence", data=form, headers=FORM)
    assert (got, words in problem["detail"]) == (status, True), problem
    assert not await taken_in(tracked.scripts)
    assert (await call(tracked, "POST", "/post_sentence", json={"cid": "7", "count": "1"}))[0] == 415


async def test_update_sentence_says_when_the_move_is_placed(tracked: Running, level_root: Path) -> None:
    async def ask() -> str:
        status, text = await call(tracked, "POST", "/update_sentence", data={"cid": "7"})
        assert status == 200
        return str(text)

    keys = tracked.scripts.of("7")
    assert await ask() == "check your status again"
    resting = Resting("7", "0", "bronze", 0, Band(0, 1000), "")
    await Reviews(tracked.scripts).rest(keys.partition, [resting])
    await open_move(tracked)
    assert await ask() == "check your status again"
    for status, expected in (
        ("moving", "check your status again"),
        ("done", "7"),
        ("failed", "check your status again"),
    ):
        await tracked.scripts.redis.hset(keys.content("7"), "status", status)
        assert await ask() == expected
    await record_move(tracked, level_root, MOVE)
    for status in ("retiring", "idle"):
        await tracked.scripts.redis.hset(keys.content("7"), "status", status)
        assert await ask() == "7"
    await tracked.scripts.redis.flushdb()
    assert await ask() == "7"
    assert (await call(tracked, "POST", "/update_sentence", data={"cid": "8"}))[0] == 404
    assert (await call(tracked, "POST", "/update_sentence", json={"cid": "7"}))[0] == 415
    assert (await call(tracked, "POST", "/update_sentence", data="cid=a+b", headers=FORM))[0] == 400
