"""Ingest as its own process with a tokens file: who gets in, and how far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from services.ingest.access import OPEN, allowed
from services.ingest.app import OPENAPI
from tests.stack import Stack

PRODUCER = "producer-token-0123456789"
OPERATOR = "operator-token-0123456789"
NEWCOMER = "newcomer-token-0123456789"
CHALLENGE = "WWW-Authenticate"


def endpoints() -> list[tuple[str, str]]:
    paths = orjson.loads(OPENAPI.read_bytes())["paths"]
    return [(m.upper(), path) for path, methods in paths.items() for m in methods if m != "parameters"]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\nproducer {PRODUCER} front end\noperator {OPERATOR}\n")
    return file


@pytest.fixture
async def stack(redis_db: str, database: str, tmp_path: Path, tokens: Path) -> AsyncIterator[Stack]:
    running = Stack(redis_db, database, tmp_path, settings={"RESHELVE_TOKENS_FILE": str(tokens)})
    try:
        running.start("ingest")
        await running.ready()
        await _listens(running)
        yield running
        assert running.stop() == {"ingest": [0]}
        assert running.errors() == []
        log = running.services[0].log.read_text()
        assert not [token for token in (PRODUCER, OPERATOR, NEWCOMER) if token in log]
    finally:
        running.stop()


async def _listens(stack: Stack) -> None:
    """`ready` looks at the metrics port, which is there first."""
    for _ in range(200):
        try:
            assert (await ask(stack, "GET", "/healthz"))[0] == 200
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("ingest does not listen")


async def ask(stack: Stack, method: str, path: str, authorization: str | None = None) -> tuple[int, str | None]:
    """The status, and the challenge that came with it."""
    headers = {"Authorization": authorization} if authorization is not None else {}
    url = stack.http + path.replace("{cid}", "7").replace("{id}", "0:1-1")
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        if answer.status in {401, 403}:
            assert answer.content_type == "application/problem+json"
            problem: Any = await answer.json(content_type=None)
            assert problem["status"] == answer.status
            assert not [token for token in (PRODUCER, OPERATOR) if token in problem["detail"]]
        return answer.status, answer.headers.get(CHALLENGE)


async def test_every_endpoint_but_the_open_ones_asks_for_a_token(stack: Stack) -> None:
    for endpoint in endpoints():
        status, challenge = await ask(stack, *endpoint)
        if endpoint in OPEN:
            assert (endpoint, status, challenge) == (endpoint, 200, None)
        else:
            assert (endpoint, status, challenge) == (endpoint, 401, 'Bearer realm="reshelve"')


async def test_what_does_not_exist_is_not_told_to_strangers(stack: Stack) -> None:
    for endpoint in (("GET", "/v2/secret"), ("PATCH", "/v1/levels")):
        assert (await ask(stack, *endpoint))[0] == 401
    assert (await ask(stack, "GET", "/v2/secret", f"Bearer {PRODUCER}"))[0] == 404
    assert (await ask(stack, "PATCH", "/v1/levels", f"Bearer {PRODUCER}"))[0] == 405


async def test_a_producer_may_report_and_look_and_nothing_else(stack: Stack) -> None:
    for endpoint in endpoints():
        status, challenge = await ask(stack, *endpoint, f"Bearer {PRODUCER}")
        if allowed(*endpoint) == {"operator"}:
            assert (endpoint, status) == (endpoint, 403)
            assert challenge == 'Bearer realm="reshelve", error="insufficient_scope"'
        else:
            assert status not in {401, 403}, endpoint
    log = stack.services[0].log.read_text()
    assert '"holder":"front end"' in log, "a refusal says whose token it was"


async def test_an_operator_may_do_everything(stack: Stack) -> None:
    for endpoint in endpoints():
        assert (await ask(stack, *endpoint, f"bearer  {OPERATOR} "))[0] not in {401, 403}, endpoint


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {OPERATOR}x",
        f"Bearer {OPERATOR[:-1]}",
        "Bearer",
        "Bearer \udcff\udcfe",
        f"Basic {OPERATOR}",
        f"Bearer{OPERATOR}",
        f"Bearer {PRODUCER} {OPERATOR}",
        OPERATOR,
        "",
    ],
)
async def test_a_bad_token_is_refused(stack: Stack, authorization: str) -> None:
    request = f"DELETE /v1/contents/7 HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n"
    assert await _send(stack, request.encode(errors="surrogateescape")) == 401


async def test_two_tokens_at_once_are_refused(stack: Stack) -> None:
    """A proxy and ingest must never look at different ones."""
    both = f"Authorization: Bearer {PRODUCER}\r\nAuthorization: Bearer {OPERATOR}\r\n"
    assert await _send(stack, f"DELETE /v1/contents/7 HTTP/1.1\r\nHost: x\r\n{both}\r\n".encode()) == 401


async def _send(stack: Stack, request: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.http_port)
    try:
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()
        await writer.wait_closed()
    return int(line.split()[1])


async def _until(stack: Stack, authorization: str, status: int) -> None:
    for _ in range(60):
        if (await ask(stack, "GET", "/v1/levels", authorization))[0] == status:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not answered with {status} within seconds: {stack.services[0].log.read_text()}")


def _write(file: Path, text: str) -> None:
    file.write_text(text)


async def test_a_new_token_works_and_an_old_one_ceases_without_a_restart(stack: Stack, tokens: Path) -> None:
    assert (await ask(stack, "GET", "/v1/levels", f"Bearer {NEWCOMER}"))[0] == 401
    _write(tokens, f"producer {NEWCOMER}\noperator {OPERATOR}\n")
    await _until(stack, f"Bearer {NEWCOMER}", 200)
    assert (await ask(stack, "GET", "/v1/levels", f"Bearer {PRODUCER}"))[0] == 401
    _write(tokens, f"nobody {NEWCOMER}\n")
    await asyncio.sleep(1.2)
    assert (await ask(stack, "GET", "/v1/levels", f"Bearer {NEWCOMER}"))[0] == 200
    assert "tokens line 1: begins with neither" in stack.services[0].log.read_text()


async def _ended(stack: Stack, settings: dict[str, str]) -> str:
    [service] = stack.start("ingest", settings=settings)
    assert await asyncio.to_thread(service.process.wait, 15) == 2
    return service.log.read_text()


async def test_a_malformed_file_ends_the_service_with_one_line(redis_db: str, database: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"producer {PRODUCER}\nroot {OPERATOR}\n")
    stack = Stack(redis_db, database, tmp_path)
    try:
        said = await _ended(stack, {"RESHELVE_TOKENS_FILE": str(file)})
    finally:
        stack.stop()
    assert said.startswith("ingest: RESHELVE_TOKENS_FILE: ")
    assert f"{file} line 2: begins with neither producer nor operator" in said
    assert len(said.splitlines()) == 1
    assert not [token for token in (PRODUCER, OPERATOR) if token in said]


async def test_without_tokens_ingest_listens_on_the_loopback_only(
    redis_db: str, database: str, tmp_path: Path, tokens: Path
) -> None:
    stack = Stack(redis_db, database, tmp_path)
    open_host = {"RESHELVE_HTTP_HOST": "0.0.0.0"}
    try:
        said = await _ended(stack, open_host)
        assert said.startswith("ingest: RESHELVE_HTTP_HOST: ")
        assert "'0.0.0.0' can be reached from outside and there are no tokens" in said
        assert len(said.splitlines()) == 1
        for permission in ({"RESHELVE_ALLOW_ANONYMOUS": "1"}, {"RESHELVE_TOKENS_FILE": str(tokens)}):
            stack.start("ingest", settings=open_host | permission)
            await stack.ready()
            assert stack.stop() == {"ingest": [0]}
    finally:
        stack.stop()
