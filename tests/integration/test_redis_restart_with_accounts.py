"""A Redis with one account per service comes back with all that it acknowledged.

It reads its AOF as the user `default`, and holds each transaction, and each script's effects, against that user's
rights. Seen to fail with `user default off` alone, on Redis 7.0 and 8.0 (not on Valkey): what was in a MULTI was left
out, with no more than a line in Redis' log.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.servers import INSTALL_REDIS, find_redis_server
from deploy.accounts import Naming, write_accounts
from tests.conftest import wait_for
from tests.ports import free_port


@contextmanager
def server(binary: Path, home: Path, port: int) -> Iterator[redis.Redis]:
    """One life of it, ended by SIGKILL; the client is the operator's."""
    command = [str(binary), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(home), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--aclfile", str(home / "accounts" / "users.acl")]
    with (home / "redis.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    password = (home / "accounts" / "redis-operator.password").read_text().strip()
    url = f"redis://reshelve_operator:{password}@127.0.0.1:{port}/0"
    try:
        with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True) as client:
            wait_for(lambda: process.poll() is not None or answers(client), str(binary))
            assert process.poll() is None, (home / "redis.log").read_text()[-1500:]
            yield client
    finally:
        process.kill()
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def redis_itself(home: Path) -> Path:
    """Debian's redis-tools has the server too: the program goes by the name it is called by."""
    if (found := shutil.which("redis-server")) is not None:
        return Path(found)
    checker = shutil.which("redis-check-rdb")
    if checker is None:
        pytest.fail("no Redis on this machine: apt-get install redis-tools")
    named = home / "redis-server"
    named.symlink_to(checker)
    return named


@pytest.fixture(params=["redis", "private"])
def binary(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Redis itself, and what private servers run, which may be Valkey."""
    found = redis_itself(tmp_path) if request.param == "redis" else find_redis_server()
    if found is None:
        pytest.fail(f"no Redis or Valkey: {INSTALL_REDIS}")
    return found


def test_transactions_and_scripts_outlive_a_restart(binary: Path, tmp_path: Path) -> None:
    write_accounts(tmp_path / "accounts", Naming())
    port = free_port()
    with server(binary, tmp_path, port) as client:
        with client.pipeline(transaction=True) as together:
            together.xadd("reshelve:{0}:views", {"v1": "{}"})
            together.set("reshelve:{0}:seen:a", "1")
            together.execute()
        client.eval(
            "redis.call('HSET', KEYS[1], 'count', 7); return redis.call('ZADD', KEYS[2], 1, 'c')",
            2,
            "reshelve:{0}:content:c",
            "reshelve:{0}:review",
        )
    with server(binary, tmp_path, port) as client:
        assert client.xlen("reshelve:{0}:views") == 1
        assert client.get("reshelve:{0}:seen:a") == "1"
        assert client.hgetall("reshelve:{0}:content:c") == {"count": "7"}
        assert client.zcard("reshelve:{0}:review") == 1
    assert "NOPERM" not in (tmp_path / "redis.log").read_text()


def test_nobody_can_be_the_default_user(binary: Path, tmp_path: Path) -> None:
    """It has all rights, for the AOF's sake, and no way in."""
    write_accounts(tmp_path / "accounts", Naming())
    port = free_port()
    with server(binary, tmp_path, port), redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger:
        for password in ("", "x"):
            with pytest.raises(redis.AuthenticationError):
                stranger.execute_command("AUTH", "default", password)
        with pytest.raises(redis.AuthenticationError):
            stranger.execute_command("GET", "reshelve:meta")
