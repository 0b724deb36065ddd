"""Passwords and tokens are in no log line and no error, whatever is wrong with them or with the servers.

Each case starts the services, or the command, against something that fails, and then reads all that was written.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from services.planner.settings import PlannerSettings
from shared.errors import StopServiceError
from shared.mysql_url import parse_mysql_url
from shared.settings import read_settings
from tests.accounts import with_login
from tests.ports import free_port
from tests.stack import SERVICES, Stack

SECRET = "s3cretPassw0rd"
"""What must be seen nowhere; parts of it neither."""
_MARKS = ("s3cret", "Passw0rd")
_WAIT_S = 2.0


@pytest.fixture
def stack(redis_db: str, database: str, tmp_path: Path) -> Iterator[Stack]:
    running = Stack(redis_db, database, tmp_path, settings={"RESHELVE_LOG_LEVEL": "debug"})
    try:
        yield running
    finally:
        running.stop()


def assert_silent(text: str, *more: str) -> None:
    found = [mark for mark in (*_MARKS, *more) if mark in text]
    assert not found, f"{found} in:\n{text}"


def written(stack: Stack) -> str:
    return "\n".join(_read(service.log) for service in stack.services)


async def _run_for_a_while(stack: Stack) -> str:
    """What the four services write from their start until some seconds after each has said something."""
    stack.start(*SERVICES)
    for _ in range(900):
        if all(_read(service.log) for service in stack.services):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(_WAIT_S)
    assert stack.stop() == {name: [0] for name in SERVICES}, written(stack)
    return written(stack)


def _read(log: Path) -> str:
    return log.read_text(errors="replace")


def _refused_redis(url: str) -> str:
    return with_login(url, "reshelve_planner", SECRET)


def _refused_mysql(url: str) -> str:
    address = parse_mysql_url(url)
    return f"mysql://reshelve:{SECRET}@{address.host}:{address.port}/{address.database}"


@pytest.mark.parametrize("case", ["redis refuses", "redis is gone", "mysql refuses", "mysql is gone", "no such host"])
async def test_a_server_that_is_away_or_refuses(stack: Stack, case: str) -> None:
    if "refuses" in case:
        # Shows tracebacks in another way.
        stack.settings = {**stack.settings, "RESHELVE_LOG_FORMAT": "console"}
    if case == "redis refuses":
        stack.redis_url = _refused_redis(stack.redis_url)
    elif case == "redis is gone":
        stack.redis_url = f"redis://reshelve_planner:{SECRET}@127.0.0.1:{free_port()}/0"
    elif case == "mysql refuses":
        stack.mysql_url = _refused_mysql(stack.mysql_url)
    elif case == "mysql is gone":
        stack.mysql_url = f"mysql://reshelve:{SECRET}@127.0.0.1:{free_port()}/reshelve"
    else:
        stack.redis_url = f"rediss://reshelve_planner:{SECRET}@no-such-host.invalid:6379/0"
        stack.mysql_url = f"mysql://reshelve:{SECRET}@no-such-host.invalid/reshelve?ssl=true"
    log = await _run_for_a_while(stack)
    assert_silent(log)
    assert stack.errors() == []


_WRONG_REDIS = [
    f"http://u:{SECRET}@host/0",
    "redis://u:s3cret/Passw0rd@host:6379/0",
    f"redis://u:{SECRET}@host:{SECRET}/0",
    f"redis://u:{SECRET}@host:6379/0?socket_timeout={SECRET}",
    f"redis://u:{SECRET}@host:6379/0?{SECRET}=1",
    f"rediss://u:{SECRET}@127.0.0.1:6379/0?ssl_ca_certs=/nowhere/ca.pem",
    f"redis://u:{SECRET}@[::1/0",
    SECRET,
]
_WRONG_MYSQL = [
    f"postgres://u:{SECRET}@host/db",
    "mysql://u:s3cret/Passw0rd@host/db",
    f"mysql://u:{SECRET}@host:{SECRET}/db",
    f"mysql://u:{SECRET}#x@host/db",
    f"mysql://u:{SECRET} x@host/db",
    f"mysql://u:{SECRET}@host/db?password={SECRET}",
    f"mysql://u:{SECRET}@host/db?{SECRET}=1",
    f"mysql://u:{SECRET}@host/db?ssl={SECRET}",
    f"mysql://u:{SECRET}@127.0.0.1/db?ssl_ca=/nowhere/ca.pem",
    f"mysql://u:{SECRET}@host",
    f"mysql://u:{SECRET}@[::1/db",
    SECRET,
]


def _service(name: str, variables: dict[str, str]) -> str:
    """What a service that ends at once says."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RESHELVE_")}
    port = {"RESHELVE_METRICS_PORT": str(free_port()), "RESHELVE_HTTP_PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-m", f"services.{name}"],
        env=kept | port | variables,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("name", "url"),
    [("REDIS_URL", url) for url in _WRONG_REDIS] + [("MYSQL_URL", url) for url in _WRONG_MYSQL],
)
def test_a_malformed_url_is_a_wrong_setting(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHELVE_REDIS_URL", "redis://127.0.0.1")
    monkeypatch.setenv("RESHELVE_MYSQL_URL", "mysql://u:p@127.0.0.1/db")
    monkeypatch.setenv(f"RESHELVE_{name}", url)
    with pytest.raises(StopServiceError, match=f"^RESHELVE_{name}: ") as raised:
        read_settings(PlannerSettings)
    assert len(str(raised.value).splitlines()) == 1
    assert_silent(str(raised.value))


def test_a_service_with_malformed_urls_says_one_line() -> None:
    said = _service("planner", {"RESHELVE_REDIS_URL": _WRONG_REDIS[4], "RESHELVE_MYSQL_URL": _WRONG_MYSQL[6]})
    assert said.startswith("planner: RESHELVE_REDIS_URL: ")
    assert "RESHELVE_MYSQL_URL: " in said
    assert len(said.splitlines()) == 1
    assert_silent(said)


@pytest.mark.parametrize("command", ["status", "migrate"])
@pytest.mark.parametrize("wrong", ["redis URL", "mysql URL", "neither answers", "both refuse"])
def test_the_command(command: str, wrong: str, redis_db: str, database: str, tmp_path: Path) -> None:
    gone = free_port()
    redis_url, mysql_url = {
        "redis URL": (f"redis://u:{SECRET}@host:{SECRET}/0", database),
        "mysql URL": (redis_db, f"mysql://u:{SECRET}@host:{SECRET}/db"),
        "neither answers": (f"redis://u:{SECRET}@127.0.0.1:{gone}/0", f"mysql://u:{SECRET}@127.0.0.1:{gone}/d"),
        "both refuse": (_refused_redis(redis_db), _refused_mysql(database)),
    }[wrong]
    ended = subprocess.run(
        [sys.executable, "-m", "cli", command, "--data-dir", str(tmp_path)],
        env={**os.environ, "RESHELVE_REDIS_URL": redis_url, "RESHELVE_MYSQL_URL": mysql_url},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert_silent(ended.stdout + ended.stderr)
    assert "Traceback" not in ended.stderr


async def test_tokens_and_the_passwords_of_a_running_system(stack: Stack, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"operator {SECRET}-operator\nproducer {SECRET}-producer web\n")
    passwords = [str(urlsplit(stack.redis_url).password), parse_mysql_url(stack.mysql_url).password]
    stack.settings = {**stack.settings, "RESHELVE_TOKENS_FILE": str(tokens)}
    stack.start(*SERVICES)
    await stack.ready()
    answers = ""
    headers = [f"Bearer {SECRET}-{who}" for who in ("operator", "producer", "stranger")] + [f"Basic {SECRET}"]
    async with aiohttp.ClientSession(stack.http) as session:
        for header in headers:
            for method, path in (("GET", "/v1/levels"), ("PUT", "/v1/levels"), ("POST", "/v1/views"), ("GET", "/x")):
                async with session.request(method, path, headers={"Authorization": header}, data=b"{") as answer:
                    answers += await answer.text() + str(answer.headers)
        _write(tokens, f"root {SECRET}-operator\n")
        await asyncio.sleep(1.2)
        async with session.get("/v1/levels", headers={"Authorization": headers[0]}) as answer:
            assert answer.status == 200
    for service in stack.services:
        answers += await service.exposition()
    assert stack.stop() == {name: [0] for name in SERVICES}
    log = written(stack)
    assert "tokens file not taken over" in log
    assert_silent(answers + log, *passwords)


def _write(file: Path, text: str) -> None:
    file.write_text(text)
