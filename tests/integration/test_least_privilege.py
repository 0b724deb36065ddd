"""What each service's users in Redis and MySQL are refused, and that what they are given is enough."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncmy
import pytest
import redis

from cli.migrate import migrate
from deploy.accounts import MYSQL_ACCOUNTS, REDIS_ACCOUNTS, main
from shared.mysql_url import parse_mysql_url
from tests.accounts import Accounts
from tests.conftest import execute, run_in_thread

SERVICES = ("ingest", "planner", "mover", "recorder")
P = "reshelve:{0}:"

# What would let one service do another's work, or undo it.
REFUSED_BY_REDIS: dict[str, list[tuple[str, ...]]] = {
    "ingest": [
        ("XREADGROUP", "GROUP", "mover", "me", "STREAMS", f"{P}moves", ">"),
        ("XACK", f"{P}views", "planner", "1-1"),
        ("XDEL", f"{P}moves", "1-1"),
        ("DEL", f"{P}views"),
        ("ZADD", f"{P}later", "1", "x"),
        ("HSET", "reshelve:meta", "partitions", "9"),
    ],
    "planner": [
        ("XADD", f"{P}views", "*", "v", "{}"),
        ("XADD", f"{P}placed", "*", "cid", "7"),
        ("XADD", f"{P}retires", "*", "cid", "7"),
        ("XREADGROUP", "GROUP", "mover", "me", "STREAMS", f"{P}moves", ">"),
        ("XDEL", f"{P}moves", "1-1"),
        ("ZADD", f"{P}later", "1", "x"),
        ("DEL", f"{P}dead"),
    ],
    "mover": [
        ("XADD", f"{P}views", "*", "v", "{}"),
        ("XREADGROUP", "GROUP", "recorder", "me", "STREAMS", f"{P}placed", ">"),
        ("XDEL", f"{P}placed", "1-1"),
        ("ZREM", f"{P}review", "7"),
        ("DEL", f"{P}content:7"),
        ("DEL", f"{P}moves"),
    ],
    "recorder": [
        ("XADD", f"{P}views", "*", "v", "{}"),
        ("XADD", f"{P}moves", "*", "cid", "7"),
        ("XADD", f"{P}placed", "*", "cid", "7"),
        ("XREADGROUP", "GROUP", "mover", "me", "STREAMS", f"{P}retires", ">"),
        ("XDEL", f"{P}retires", "1-1"),
        ("DEL", f"{P}content:7"),
        ("HSET", "reshelve:breakers", "m", "1"),
    ],
}
# No service is an administrator, sees other programs' keys, or reads what others were sent.
REFUSED_TO_ALL: list[tuple[str, ...]] = [
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "requirepass"), ("ACL", "LIST"), ("KEYS", "*"),
    ("SHUTDOWN",), ("MONITOR",), ("CLIENT", "LIST"), ("GET", "somebody:else"), ("SET", "somebody:else", "1"),
    ("SCRIPT", "FLUSH"), ("XTRIM", f"{P}views", "MAXLEN", "0"), ("RENAME", f"{P}views", f"{P}moves"),
]  # fmt: skip


@pytest.mark.parametrize("service", SERVICES)
def test_redis_refuses_each_service_what_is_not_its_work(accounts: Accounts, redis_db: str, service: str) -> None:
    with redis.Redis.from_url(accounts.redis_urls[service]) as client:
        assert client.ping()
        for command in REFUSED_BY_REDIS[service] + REFUSED_TO_ALL:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
        for command in REFUSED_BY_REDIS[service]:
            # A script has its caller's rights, no more.
            with pytest.raises(redis.ResponseError, match=r"ACL|NOPERM|permission"):
                client.eval("return redis.call(unpack(ARGV))", 0, *command)


def test_redis_refuses_the_operator_what_is_the_servers(accounts: Accounts, redis_db: str) -> None:
    with redis.Redis.from_url(accounts.redis_urls["operator"]) as client:
        client.hset("reshelve:meta", "x", "1")
        for command in REFUSED_TO_ALL:
            if command[0] not in {"XTRIM", "RENAME"}:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)


def test_nobody_gets_in_without_a_password(tmp_path: Path) -> None:
    """`aclfile` begins with `user default off …`: without that line Redis lets everybody in as `default`."""
    assert main([str(tmp_path / "made")]) == 0
    lines = (tmp_path / "made" / "users.acl").read_text().splitlines()
    assert lines[0].startswith("user default off ")
    assert "nopass" not in lines[0]
    assert [line.split()[1] for line in lines[1:]] == [f"reshelve_{account}" for account in REDIS_ACCOUNTS]


SELECTABLE = {
    "ingest": {"contents", "level", "update_history", "relocations", "drops"},
    "planner": {"contents", "level", "relocations"},
    "mover": {"contents", "level", "relocations"},
    "recorder": {"contents", "level", "relocations"},
}
WRITES = {
    "UPDATE contents SET content_level = content_level": {"recorder"},
    "DELETE FROM contents WHERE cid = 'x'": {"ingest"},
    "INSERT INTO contents (cid, content_level, filename) VALUES ('x', 'bronze', 'x')": {"ingest"},
    "UPDATE level SET path = path": {"ingest"},
    "DELETE FROM level WHERE content_level = 'x'": {"ingest"},
    "INSERT INTO relocations SELECT * FROM relocations WHERE 1 = 0": {"recorder"},
    "UPDATE relocations SET bytes = 0": set(),
    "DELETE FROM relocations": set(),
    "INSERT INTO update_history SELECT * FROM update_history WHERE 1 = 0": set(),
    "DELETE FROM update_history": set(),
    "DELETE FROM drops": set(),
    "DROP TABLE drops": set(),
    "DROP TRIGGER contents_level_change": set(),
    "ALTER TABLE contents ADD COLUMN x INT": set(),
    "CREATE TABLE x (y INT)": set(),
    "CREATE USER 'x'@'%' IDENTIFIED BY 'x'": set(),
    "SELECT User FROM mysql.user": set(),
}
DENIED = {1044, 1142, 1143, 1227, 1370}


def _denied(url: str, statement: str) -> bool:
    try:
        execute(url, statement)
    except asyncmy.errors.MySQLError as error:
        if error.args[0] not in DENIED:
            raise
        return True
    return False


@pytest.mark.parametrize("service", SERVICES)
def test_mysql_refuses_each_service_what_is_not_its_work(accounts: Accounts, database: str, service: str) -> None:
    url = accounts.mysql_urls[service]
    tables = ("contents", "level", "update_history", "relocations", "drops")
    selectable = {table for table in tables if not _denied(url, f"SELECT * FROM {table}")}
    assert selectable == SELECTABLE[service]
    for statement, services in WRITES.items():
        assert _denied(url, statement) == (service not in services), statement


@pytest.fixture
async def fresh(bare_database: str, redis_url: str, mysql_admin_url: str) -> AsyncIterator[Accounts]:
    """A database that was set up by the migrator, as docs/security.md says."""
    made = Accounts.named(redis_url, bare_database)
    try:
        made.make_mysql_users(mysql_admin_url, execute, "migrator.sql")
        run_in_thread(migrate(made.mysql_urls["migrator"], None))
        made.make_mysql_users(mysql_admin_url, execute)
        made.make_mysql_users(mysql_admin_url, execute)
        yield made
    finally:
        made.remove(redis_url, mysql_admin_url, execute)


async def test_the_recorders_update_writes_the_history_that_it_may_not_write_itself(fresh: Accounts) -> None:
    """The trigger has the rights of who made it. Seen to fail with the migrator's INSERT taken away."""
    execute(
        fresh.mysql_urls["migrator"],
        "INSERT INTO level (content_level, min_counts, max_counts, path) VALUES ('a', 0, 1, '/a'), ('b', 2, 3, '/b')",
    )
    execute(fresh.mysql_urls["ingest"], "INSERT INTO contents (cid, content_level, filename) VALUES ('7', 'a', 'f')")
    execute(fresh.mysql_urls["recorder"], "UPDATE contents SET content_level = 'b' WHERE cid = '7'")
    rows = await _select(
        fresh.mysql_urls["ingest"], "SELECT cid, old_content_level, new_content_level FROM update_history"
    )
    assert rows == [("7", "a", "b")]


async def _select(url: str, statement: str) -> list[Any]:
    connection = await asyncmy.connect(**parse_mysql_url(url).connect_arguments())
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(statement)
            return list(await cursor.fetchall())
    finally:
        await connection.ensure_closed()


def test_passwords_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    target = tmp_path / "made"
    command = [sys.executable, "-m", "deploy.accounts", str(target), "--database", "media_db"]
    contents = []
    for _ in range(2):
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        contents.append({file.name: file.read_text() for file in target.iterdir()})
    assert contents[0] == contents[1]
    assert {file.stat().st_mode & 0o777 for file in target.iterdir()} == {0o600}
    passwords = {name: text.strip() for name, text in contents[0].items() if name.endswith(".password")}
    assert len(set(passwords.values())) == len(REDIS_ACCOUNTS) + len(MYSQL_ACCOUNTS)
    assert not [
        secret for secret in passwords.values() if secret in said.stdout + said.stderr + contents[0]["users.acl"]
    ]
    assert not [name for name, text in contents[0].items() if re.search("@[A-Z0-9_]+@", text)]
    assert r"`media\_db`.*" in contents[0]["migrator.sql"]
