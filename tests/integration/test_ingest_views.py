"""POST /v1/views against a real Redis: what is answered is what was taken in, once."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from shared.keys import partition_of
from tests.ingest_app import Running, entries, running_ingest, taken_in

BODY_LIMIT = 100_000
NDJSON = "application/x-ndjson"
EVENT = {"specversion": "1.0", "id": "e-1", "source": "/player", "type": "view", "data": {"cid": "7", "views": 3}}


@pytest.fixture
async def ingest(redis_db: str, database: str) -> AsyncIterator[Running]:
    async with running_ingest(redis_db, database, body_limit_bytes=BODY_LIMIT) as running:
        await running.ready()
        yield running


def is_problem(status: int, answer: dict[str, Any], expected: int, words: str) -> None:
    assert (status, answer["status"], answer["type"]) == (expected, expected, "about:blank")
    assert words in answer["detail"], answer


async def test_views_and_totals_are_taken_in(ingest: Running) -> None:
    assert await ingest.post_views(b'{"cid": "7"}') == (202, {"accepted": 1, "rejected": []})
    body = b'{"cid":"7","views":2}\n\n{"cid":"8","count":1964}\nnonsense\n'
    status, answer = await ingest.post_views(body, NDJSON)
    assert (status, answer["accepted"], answer["rejected"][0]["index"]) == (202, 2, 2)
    tally = await taken_in(ingest.scripts)
    assert (tally.add, tally.set) == ({"7": 3}, {"8": 1964})


async def test_every_view_lands_in_its_own_partition(ingest: Running) -> None:
    await ingest.post_views(orjson.dumps([{"cid": str(n)} for n in range(100)]))
    for keys in ingest.scripts.partitions:
        for fields in await entries(ingest.scripts, [keys]):
            cids = orjson.loads(fields[b"v1"])["add"]
            assert {partition_of(cid, len(ingest.scripts.partitions)) for cid in cids} == {keys.partition}


async def test_nothing_is_accepted_as_nothing(ingest: Running) -> None:
    assert await ingest.post_views(b"[]") == (202, {"accepted": 0, "rejected": []})
    assert await ingest.post_views(b"\n", NDJSON) == (202, {"accepted": 0, "rejected": []})
    assert await entries(ingest.scripts) == []


async def test_when_all_is_rejected_the_answer_is_400_with_the_list(ingest: Running) -> None:
    status, answer = await ingest.post_views(b'[{"cid": "7", "views": 0}, {}]')
    is_problem(status, answer, 400, "views must be an integer")
    assert [item["index"] for item in answer["rejected"]] == [0, 1]
    status, answer = await ingest.post_views(orjson.dumps([{}] * 150))
    assert (len(answer["rejected"]), answer["rejected_total"]) == (100, 150)
    status, answer = await ingest.post_views(orjson.dumps([{}] * 150 + [{"cid": "7"}]))
    assert (status, answer["accepted"], len(answer["rejected"]), answer["rejected_total"]) == (202, 1, 100, 150)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"{", "application/json", 400, "body is not JSON"),
        (b'"7"', "application/json", 400, "object with a cid"),
        (b"", "application/json", 400, "body is not JSON"),
        (b"[]", "application/cloudevents+json", 400, "one CloudEvent"),
        (b"{}", "application/cloudevents-batch+json", 400, "array of CloudEvents"),
        (b"cid=7", "application/x-www-form-urlencoded", 415, "is not understood: send application/json"),
        (b"[]", "application/json; charset=utf-16", 415, "send UTF-8"),
        (b" " * (BODY_LIMIT + 1), "application/json", 413, "larger than 100000 bytes"),
    ],
)
async def test_refused_bodies(ingest: Running, body: bytes, content_type: str, status: int, words: str) -> None:
    is_problem(*await ingest.post_views(body, content_type), status, words)
    assert await entries(ingest.scripts) == []


async def test_packed_bodies(ingest: Running, caplog: pytest.LogCaptureFixture) -> None:
    packed = gzip.compress(b'{"cid": "7"}')
    assert (await ingest.post_views(packed, Content_Encoding="gzip"))[0] == 202
    is_problem(*await ingest.post_views(packed[:-12] + b"\0" * 12, Content_Encoding="gzip"), 400, "damaged")
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < BODY_LIMIT
    is_problem(*await ingest.post_views(bomb, Content_Encoding="gzip"), 413, "larger than")
    assert caplog.records == []


async def test_a_large_body_is_parsed_off_the_loop(ingest: Running) -> None:
    body = b'{"cid":"7"}\n' * 8000
    assert await ingest.post_views(body, NDJSON) == (202, {"accepted": 8000, "rejected": []})
    assert (await taken_in(ingest.scripts)).add == {"7": 8000}


async def test_an_idempotency_key_counts_once(ingest: Running) -> None:
    body = orjson.dumps([{"cid": str(n), "views": n + 1} for n in range(30)] + [{"cid": "", "views": 1}])
    answers = await asyncio.gather(*(ingest.post_views(body, Idempotency_Key="k 1") for _ in range(20)))
    answers.append(await ingest.post_views(body, Idempotency_Key="k 1"))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][1]["accepted"] == 30
    assert (await taken_in(ingest.scripts)).add == {str(n): n + 1 for n in range(30)}
    is_problem(*await ingest.post_views(b'{"cid":"7"}', Idempotency_Key="k 1"), 422, "another body")
    is_problem(*await ingest.post_views(body, NDJSON, Idempotency_Key="k 1"), 400, "no view could be accepted")
    assert (await ingest.post_views(body, Idempotency_Key="k 2"))[0] == 202
    assert (await taken_in(ingest.scripts)).add == {str(n): 2 * (n + 1) for n in range(30)}


@pytest.mark.parametrize("key", ["", "a" * 256, "é"])
async def test_keys_that_are_no_keys(ingest: Running, key: str) -> None:
    is_problem(*await ingest.post_views(b'{"cid":"7"}', Idempotency_Key=key), 400, "1-255 printable")


async def test_two_keys_at_once(ingest: Running) -> None:
    headers = [("Content-Type", "application/json"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with ingest.http.post("/v1/views", data=b"{}", headers=headers) as answer:
        is_problem(answer.status, await answer.json(content_type=None), 400, "2 times")


async def test_an_event_is_counted_once_in_whatever_mode(ingest: Running) -> None:
    one, batch = orjson.dumps(EVENT), orjson.dumps([EVENT, {**EVENT, "id": "e-2"}, EVENT])
    headers = {"ce_specversion": "1.0", "ce_id": "e-1", "ce_source": "/player", "ce_type": "view"}
    answers = await asyncio.gather(
        ingest.post_views(one, "application/cloudevents+json"),
        ingest.post_views(one, "application/cloudevents+json", Idempotency_Key="k"),
        ingest.post_views(batch, "application/cloudevents-batch+json"),
        ingest.post_views(orjson.dumps(EVENT["data"]), **headers),
    )
    assert [status for status, _ in answers] == [202] * 4
    assert [answer["accepted"] for _, answer in answers] == [1, 1, 3, 1]
    assert (await taken_in(ingest.scripts)).add == {"7": 6}


async def test_a_bad_event_is_rejected_with_its_index(ingest: Running) -> None:
    body = orjson.dumps([EVENT, {**EVENT, "source": ""}])
    status, answer = await ingest.post_views(body, "application/cloudevents-batch+json")
    assert (status, answer["accepted"], answer["rejected"][0]["index"]) == (202, 1, 1)


async def test_the_backlog_limit_refuses_and_lets_in_again(redis_db: str, database: str) -> None:
    async with running_ingest(redis_db, database, backlog_limit=2) as ingest:
        await ingest.ready()
        status = 202
        sent = 0
        while status == 202:
            status, answer = await ingest.post_views(b'{"cid": "7"}')
            sent += status == 202
            await asyncio.sleep(0.05)
        is_problem(status, answer, 503, "wait to be counted: nothing was taken in")
        assert (await taken_in(ingest.scripts)).add == {"7": sent}
        async with ingest.http.post("/v1/views", json={"cid": "7"}) as refused:
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.content_type == "application/problem+json"
        await ingest.scripts.redis.delete(*(keys.stream("views") for keys in ingest.scripts.partitions))
        await asyncio.sleep(0.7)
        assert (await ingest.post_views(b'{"cid": "7"}'))[0] == 202


async def test_paths_and_methods_that_do_not_exist(ingest: Running) -> None:
    async with ingest.http.get("/v1/nothing") as answer:
        is_problem(answer.status, await answer.json(content_type=None), 404, "/openapi.json")
        assert answer.headers["Server"] == "reshelve"
    async with ingest.http.get("/v1/views") as answer:
        is_problem(answer.status, await answer.json(content_type=None), 405, "use POST")
        assert (answer.headers["Allow"], answer.content_type) == ("POST", "application/problem+json")


async def test_metrics_count_what_was_answered(ingest: Running) -> None:
    def value(text: str, series: str) -> float:
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(series))

    from shared.metrics import exposition  # noqa: PLC0415

    before = exposition().decode()
    await ingest.post_views(b'[{"cid": "7", "views": 5}, {"cid": "7", "count": 1}, {}]')
    await ingest.post_views(b"{")
    after = exposition().decode()
    for series, grown in (
        ('reshelve_views_accepted_total{kind="views"}', 1),
        ('reshelve_views_accepted_total{kind="count"}', 1),
        ('reshelve_views_rejected_total{reason="invalid"}', 1),
        ('reshelve_views_rejected_total{reason="malformed"}', 1),
        ('reshelve_views_rejected_total{reason="unavailable"}', 0),
        ("reshelve_ingest_seconds_count", 2),
    ):
        assert value(after, series) - value(before, series) == grown, series


async def test_a_client_that_goes_away_in_the_middle_harms_nobody(ingest: Running) -> None:
    url = ingest.http._base_url
    assert url is not None
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /v1/views HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n[")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await ingest.post_views(b'{"cid": "7"}'))[0] == 202
    assert (await taken_in(ingest.scripts)).add == {"7": 1}


async def test_a_body_that_waits_longer_than_its_head(ingest: Running) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for piece in (b'[{"cid"', b': "7"}', b"]"):
            yield piece
            await asyncio.sleep(0.05)

    headers = {"Content-Type": "application/json"}
    async with ingest.http.post("/v1/views", data=slowly(), headers=headers) as answer:
        assert answer.status == 202


async def test_bodies_wait_for_room_in_memory_and_all_come_in(redis_db: str, database: str) -> None:
    body = b"\n".join(b'{"cid":"%d"}' % n for n in range(40_000))
    limit = len(body) * 2
    async with running_ingest(redis_db, database, reading_limit_bytes=limit) as ingest:
        await ingest.ready()
        answers = await asyncio.gather(*(ingest.post_views(body, "application/x-ndjson") for _ in range(24)))
        assert {status for status, _ in answers} == {202}
        assert sum((await taken_in(ingest.scripts)).add.values()) == 24 * 40_000


async def raw(ingest: Running, request: bytes) -> bytes:
    port = ingest.runtime.settings.http_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(1):
            return await reader.read(65536) if b"1.1" in request and b"close" not in request else await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(("version", "more"), [("1.1", ""), ("1.1", "Connection: close\r\n"), ("1.0", "")])
async def test_all_is_said_of_an_answer_on_any_connection(ingest: Running, version: str, more: str) -> None:
    body = '{"cid":"7"}'
    head = f"POST /v1/views HTTP/{version}\r\nHost: ingest\r\nContent-Type: application/json\r\n{more}"
    answer = await raw(ingest, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    start, _, said = answer.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in start.split(b"\r\n")[1:]}
    assert b" 202 Accepted\r\n" in start
    assert {b"content-type", b"server", b"date", b"content-length"} <= names
    assert (b"connection" in names) == bool(more)
    assert orjson.loads(said) == {"accepted": 1, "rejected": []}
