"""Ingest as its own process: outages, stopping, wrong settings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from redis.asyncio import Redis

from cli.private_redis import PrivateRedis
from shared.messages import Tally
from shared.state.scripts import Scripts
from shared.stopping import BOUND_S
from tests.ingest_app import taken_in
from tests.stack import Service, Stack

PARTITIONS = 8
_HURRY_S = 3
_POST_OF_TWO = (
    b"POST /v1/views HTTP/1.1\r\nHost: ingest\r\nContent-Type: application/x-ndjson\r\nContent-Length: 23\r\n"
    b'Expect: 100-continue\r\n\r\n{"cid":"1"}\n'
)
"""The body's second line is still to come. An answer tells at once that ingest has begun with it."""


@pytest.fixture
def private(tmp_path: Path) -> Iterator[PrivateRedis]:
    """A Redis that this test may stop."""
    with PrivateRedis.start(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def stack(private: PrivateRedis, database: str, tmp_path: Path) -> Iterator[Stack]:
    running = Stack(private.url, database, tmp_path)
    try:
        yield running
    finally:
        running.stop()


async def tally_of(url: str) -> Tally:
    async with Redis.from_url(url, protocol=2) as client:
        return await taken_in(Scripts(client, PARTITIONS))


async def post(session: aiohttp.ClientSession, cid: str) -> tuple[int, Any, str | None]:
    async with session.post("/v1/views", json={"cid": cid}) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers.get("Retry-After")


async def test_a_redis_that_hangs_is_answered_503_and_nothing_was_taken_in(stack: Stack, private: PrivateRedis) -> None:
    stack.start("ingest", settings={"RESHELVE_DEADLINE_S": "1"})
    await stack.ready()
    with redis.Redis.from_url(private.url) as client:
        pid = client.info("server")["process_id"]
    async with aiohttp.ClientSession(stack.http) as session:
        assert (await post(session, "before"))[0] == 202
        os.kill(pid, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(*(post(session, "during") for _ in range(20)))
            async with session.get("/readyz") as answer:
                assert (answer.status, answer.content_type) == (503, "application/problem+json")
                assert "redis" in (await answer.json(content_type=None))["detail"]
            async with session.get("/healthz") as answer:
                assert answer.status == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        assert {(status, problem["status"], after) for status, problem, after in answers} == {(503, 503, "2")}
        for _ in range(100):
            if (await post(session, "after"))[0] == 202:
                break
            await asyncio.sleep(0.1)
    assert (await tally_of(private.url)).add == {"before": 1, "after": 1}
    assert stack.errors() == []


async def test_a_mysql_that_is_gone_stops_no_views(stack: Stack, private: PrivateRedis) -> None:
    stack.mysql_url = stack.mysql_url.rsplit("/", 1)[0] + "/nowhere"
    stack.start("ingest")
    async with aiohttp.ClientSession(stack.http) as session:
        for _ in range(100):
            try:
                status, *_ = await post(session, "7")
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
        assert status == 202
        for method, path in (("GET", "/v1/contents/7"), ("GET", "/v1/levels"), ("GET", "/readyz")):
            async with session.request(method, path) as answer:
                assert (answer.status, answer.headers.get("Retry-After")) == (503, "2")
    assert stack.errors() == []


async def test_stopping_answers_what_is_under_way(stack: Stack, private: PrivateRedis) -> None:
    [service] = stack.start("ingest")
    await stack.ready()
    body = b'{"cid":"7"}\n' * 5000
    headers = {"Content-Type": "application/x-ndjson"}
    taken = 0

    async def post_on(session: aiohttp.ClientSession) -> None:
        nonlocal taken
        while True:
            try:
                async with session.post("/v1/views", data=body, headers=headers) as answer:
                    taken += 5000 * (answer.status == 202)
            except aiohttp.ClientConnectionError:
                return

    async with aiohttp.ClientSession(stack.http) as session:
        posting = [asyncio.create_task(post_on(session)) for _ in range(8)]
        await asyncio.sleep(1)
        service.process.terminate()
        await asyncio.gather(*posting)
    assert await asyncio.to_thread(service.process.wait, 15) == 0
    assert taken > 0
    counted = (await tally_of(private.url)).add["7"]
    # A request whose connection was refused at the stop may not have been answered; an answered one is never lost.
    assert taken <= counted <= taken + 8 * 5000
    assert stack.errors() == []


async def test_stopping_waits_for_a_body_that_is_on_its_way(stack: Stack, private: PrivateRedis) -> None:
    """And is not held up by a connection on which nothing is asked."""
    [service] = stack.start("ingest")
    await stack.ready()
    async with _connected(stack) as (idle, _), _connected(stack) as (writer, reader):
        idle.write(b"POST /v1/views HTTP/1.1\r\n")
        writer.write(_POST_OF_TWO)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        service.process.terminate()
        await _refuses_connections(stack)
        writer.write(b'{"cid":"2"}')
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert await asyncio.to_thread(service.process.wait, 15) == 0
    assert (head.split(b"\r\n")[0], json.loads(body)) == (b"HTTP/1.1 202 Accepted", {"accepted": 2, "rejected": []})
    assert b"Connection: close" in head
    assert (await tally_of(private.url)).add == {"1": 1, "2": 1}
    assert "hurry" not in service.log.read_text()
    assert stack.errors() == []


async def test_a_body_that_does_not_come_holds_up_a_stop_for_so_long_only(stack: Stack) -> None:
    [service] = stack.start("ingest")
    await stack.ready()
    async with _connected(stack) as (writer, reader):
        writer.write(_POST_OF_TWO)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        began = time.monotonic()
        service.process.terminate()
        assert await asyncio.to_thread(service.process.wait, 15) == 0
        assert time.monotonic() - began < BOUND_S + _HURRY_S
        assert await reader.read() == b""
    assert stack.errors() == []


@asynccontextmanager
async def _connected(stack: Stack) -> AsyncIterator[tuple[asyncio.StreamWriter, asyncio.StreamReader]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.http_port)
    try:
        yield writer, reader
    finally:
        writer.close()


async def _refuses_connections(stack: Stack) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                async with _connected(stack):
                    await asyncio.sleep(0.02)
            except ConnectionError:
                return


async def test_a_port_that_is_taken_ends_it_with_a_line(stack: Stack) -> None:
    stack.start("ingest")
    await stack.ready()
    [second] = stack.start("ingest")
    assert await asyncio.to_thread(second.process.wait, 15) == 2
    assert "RESHELVE_HTTP_PORT: cannot listen on 127.0.0.1" in second.log.read_text()


async def test_processes_that_share_a_port_share_its_connections(stack: Stack, private: PrivateRedis) -> None:
    """And one that dies takes only its own along."""
    shared = {"RESHELVE_HTTP_SHARE_PORT": "1"}
    one, other = stack.start("ingest", "ingest", settings=shared)
    await stack.ready()
    assert await _post_apart(stack, 64) == [202] * 64
    taken = [await _accepted_by(service) for service in (one, other)]
    assert min(taken) > 0
    assert sum(taken) == 64
    one.kill()
    assert await _post_apart(stack, 16) == [202] * 16
    assert await _accepted_by(other) == taken[1] + 16
    assert (await tally_of(private.url)).add == {"7": 80}
    [alone] = stack.start("ingest")
    assert await asyncio.to_thread(alone.process.wait, 15) == 2
    assert "RESHELVE_HTTP_PORT: cannot listen on 127.0.0.1" in alone.log.read_text()
    assert stack.errors() == []


async def _post_apart(stack: Stack, times: int) -> list[int]:
    """Each on a connection of its own."""

    async def once() -> int:
        async with aiohttp.ClientSession(stack.http) as session:
            status, *_ = await post(session, "7")
            return status

    return await asyncio.gather(*(once() for _ in range(times)))


async def _accepted_by(service: Service) -> float:
    lines = (await service.exposition()).splitlines()
    [value] = [line for line in lines if line.startswith('reshelve_views_accepted_total{kind="views"}')]
    return float(value.rpartition(" ")[2])


async def test_a_wrong_setting_ends_it_with_a_line_that_names_it(stack: Stack) -> None:
    [service] = stack.start("ingest", settings={"RESHELVE_BACKLOG_LIMIT": "0"})
    assert await asyncio.to_thread(service.process.wait, 15) == 2
    assert service.log.read_text().startswith("ingest: RESHELVE_BACKLOG_LIMIT: ")
