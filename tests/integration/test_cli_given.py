"""Commands with servers that were given, or that are missing."""

from __future__ import annotations

import socket
from pathlib import Path

import orjson
import pytest
import redis as redis_client

from tests.cli_running import (
    reshelve,
)
from tests.conftest import execute


def test_commands_with_given_servers(tmp_path: Path, database: str, redis_db: str, level_root: Path) -> None:
    given = {"RESHELVE_MYSQL_URL": database, "RESHELVE_REDIS_URL": redis_db}
    for number in range(25):
        (level_root / "silver" / f"bad name {number}").write_text("x")
    (level_root / "silver" / "s.mp4").write_text("x")
    done = reshelve("import", level_root / "silver", at=tmp_path, **given)
    assert "… and 5 more" in done.stdout
    assert "registered 1 file on silver; 0 tracked before, 25 left out" in done.stdout
    assert "rests on silver: count 1000" in reshelve("explain", "s", at=tmp_path, **given).stdout
    execute(database, "DELETE FROM contents", "DELETE FROM level WHERE content_level = 'gold'")
    with redis_client.Redis.from_url(redis_db) as client:
        client.hset("reshelve:meta", "partitions", "3")
    found = orjson.loads(reshelve("status", "--json", at=tmp_path, **given).stdout)
    assert found["partitions"] == 3
    assert [level["content_level"] for level in found["levels"]] == ["bronze", "silver"]
    assert found["consumers"] == []
    done = reshelve("status", at=tmp_path, RESHELVE_PARTITIONS="8", **given)
    assert "RESHELVE_PARTITIONS: is 8, but this Redis was first used with 3" in done.stderr


def test_migrate_says_what_it_did(tmp_path: Path, bare_database: str) -> None:
    levels = tmp_path / "levels"
    before = reshelve("status", at=tmp_path, RESHELVE_MYSQL_URL=bare_database, RESHELVE_REDIS_URL="redis://127.0.0.1:1")
    assert "Redis does not answer" in before.stderr
    done = reshelve("migrate", at=tmp_path, RESHELVE_MYSQL_URL=bare_database, RESHELVE_LEVEL_ROOT=str(levels))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("applied 0001_tables\n")
    assert done.stdout.endswith("applied sample_levels\n")
    assert (levels / "gold").is_dir()


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "RESHELVE_REDIS_URL is not set"),
        ({"RESHELVE_REDIS_URL": "http://x", "RESHELVE_MYSQL_URL": "mysql://u:p@h/d"}, "RESHELVE_REDIS_URL: "),
        ({"RESHELVE_REDIS_URL": "redis://127.0.0.1:1", "RESHELVE_MYSQL_URL": "mysql:"}, "the MySQL URL "),
        (
            {"RESHELVE_REDIS_URL": "redis://127.0.0.1:1", "RESHELVE_MYSQL_URL": "mysql://u:p@h/d"},
            "Redis does not answer",
        ),
        ({"RESHELVE_REDIS_URL_FILE": "/no/such"}, "RESHELVE_REDIS_URL_FILE: cannot read /no/such"),
        ({"RESHELVE_PARTITIONS": "many"}, "RESHELVE_PARTITIONS: "),
    ],
)
def test_what_is_missing_is_one_clear_line(tmp_path: Path, variables: dict[str, str], line: str) -> None:
    done = reshelve("status", at=tmp_path, **variables)
    assert done.returncode != 0
    assert done.stderr.startswith(f"reshelve: {line}")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_taken_port_ends_up_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = reshelve("up", "--port", port, at=tmp_path)
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr
    assert not (tmp_path / ".reshelve").exists()
