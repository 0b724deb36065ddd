"""The command as an operator uses it: real processes, private servers, real files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from tests.cli_running import (
    Running,
    command_line,
    environment,
    explained,
    is_there,
    post,
    put,
    reshelve,
    started_up,
    wait_until,
)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that runs for all tests of this module."""
    running = started_up(tmp_path_factory.mktemp("up"), "--ingests", "2", "--movers", "2", "--verbose")
    yield running
    assert running.stop() == 0


def test_up_says_where_everything_listens_and_keeps_passwords_to_itself(up: Running) -> None:
    said = up.said()
    assert "reshelve is up: 6 services" in said
    for word in (
        "HTTP ",
        "metrics ",
        "ingest-2 127.0.0.1:",
        "mover-2 127.0.0.1:",
        "Redis ",
        "MySQL ",
        "bronze 0-999 ",
        "logs ",
    ):
        assert word in said
    secrets = [line.split("@")[0].rpartition(":")[2] for line in environment_file(up).splitlines()]
    assert len(secrets) == 2
    assert all(len(secret) > 20 and secret not in said for secret in secrets)


def environment_file(up: Running) -> str:
    path = up.at / ".reshelve" / "environment"
    assert path.stat().st_mode & 0o777 == 0o600
    return path.read_text()


def test_a_view_moves_a_file(up: Running) -> None:
    source = put(up, "talks/g.mp4")
    registered = post(f"{up.url}/v1/contents", {"cid": "g", "filename": "talks/g.mp4"})
    assert registered["level"] == "bronze"
    post(f"{up.url}/v1/views", [{"cid": "g", "count": 1964}])
    wait_until(lambda: explained(up, "g")["status"] == "idle" and not source.exists())
    found = explained(up, "g")
    assert (found["level"], found["count"], found["file"]) == ("silver", 1964, "yes")
    assert (found["last_relocation"]["from_level"], found["last_relocation"]["to_level"]) == ("bronze", "silver")
    assert Path(found["path"]).read_text() == "talks/g.mp4"
    assert found["why"].startswith("rests on silver: count 1964 is within 1000–1999; moves to gold at 2000")
    spoken = reshelve("explain", "g", at=up.at).stdout
    assert "why         rests on silver" in spoken
    assert "(there)" in spoken
    # With --verbose the services' logs are seen.
    wait_until(lambda: "placed" in up.said())


def test_explain_of_an_unknown_cid(up: Running) -> None:
    done = reshelve("explain", "nobody", at=up.at)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("reshelve: content nobody is unknown")
    assert len(done.stderr.splitlines()) == 1
    assert "is not 1-64 characters" in reshelve("explain", "no such", at=up.at).stderr


def test_views_of_a_content_that_is_not_registered_yet_are_kept_until_its_import(up: Running) -> None:
    post(f"{up.url}/v1/views", [{"cid": "early", "views": 2500}])
    wait_until(lambda: "Redis keeps its count (2500)" in reshelve("explain", "early", at=up.at).stderr)
    put(up, "early/early.mp4")
    done = reshelve("import", up.at / ".reshelve/levels/bronze/early", at=up.at)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: explained(up, "early")["level"] == "gold")


def test_import_takes_what_it_can_and_says_what_not(up: Running) -> None:
    for name in (b"in/1.mp4", b"in/a/2.mp4", b"in/b/2.mp4", b"in/\xff.mp4", b"in/\x1b[31m.mp4", b"in/.reshelve.x.1"):
        put(up, name)
    (up.at / ".reshelve/levels/bronze/in/link.mp4").symlink_to("1.mp4")
    directory = up.at / ".reshelve/levels/bronze/in"
    rehearsed = reshelve("import", directory, "--dry-run", at=up.at)
    assert "would register 2 files on bronze; 0 tracked before, 3 left out" in rehearsed.stdout
    assert reshelve("explain", "1", at=up.at).returncode == 1
    done = reshelve("import", directory, "--batch", "1", at=up.at)
    assert done.returncode == 1
    assert "registered 2 files on bronze; 0 tracked before, 3 left out" in done.stdout
    assert "skipped 1 mover's own, 1 symbolic link" in done.stdout
    assert r"'in/\x1b[31m.mp4'" in done.stdout
    assert "\x1b" not in done.stdout
    again = reshelve("import", directory, at=up.at)
    assert "registered 0 files on bronze; 2 tracked before, 3 left out" in again.stdout
    other = reshelve("import", directory, "--cid-from", "path", at=up.at)
    assert "registered 2 files on bronze" in other.stdout
    assert "'in/1.mp4' is tracked already" in other.stdout
    assert explained(up, "1")["path"] == str(directory / "1.mp4")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["."], "lies on no level: import the directory of a level or one below it: bronze in /"),
        (["no-such"], "cannot be read: No such file or directory"),
        (["output"], "is no directory"),
        ([".reshelve/levels/gold", "--level", "bronze"], "lies on gold, not on bronze"),
        ([".reshelve/levels/gold", "--level", "iron"], "there is no level iron"),
    ],
)
def test_import_from_a_wrong_place(up: Running, arguments: Sequence[str], line: str) -> None:
    done = reshelve("import", *arguments, at=up.at)
    assert done.returncode == 1
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status(up: Running) -> None:
    done = reshelve("status", "--json", at=up.at)
    assert done.returncode == 0, done.stderr
    found = orjson.loads(done.stdout)
    assert [level["content_level"] for level in found["levels"]] == ["bronze", "silver", "gold"]
    assert all(level["free_bytes"] > 0 and Path(level["path"]).is_dir() for level in found["levels"])
    assert [stream["stream"] for stream in found["streams"]] == ["views", "moves", "placed", "retires"]
    assert (found["partitions"], found["later"], found["dead_letters"]) == (8, 0, 0)
    groups = [consumer["group"] for consumer in found["consumers"]]
    assert (set(groups), groups.count("mover")) == ({"mover", "planner", "recorder"}, 2)
    assert all(consumer["idle_ms"] is not None for consumer in found["consumers"])
    plain = reshelve("status", at=up.at).stdout
    assert "bronze  0-999" in plain
    assert "0 waiting for a retry" in plain


def test_status_watched_ends_on_ctrl_c(up: Running) -> None:
    command = [sys.executable, "-m", "cli", "status", "--json", "--watch"]
    with subprocess.Popen(command, cwd=up.at, env=environment(), stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert all(orjson.loads(watching.stdout.readline())["partitions"] == 8 for _ in range(2))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0


def test_migrate_again_is_up_to_date(up: Running) -> None:
    done = reshelve("migrate", at=up.at)
    assert (done.returncode, done.stdout) == (0, "up to date\n")


def test_a_service_that_dies_is_started_again(up: Running) -> None:
    before = up.service("planner")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: "planner ended by signal 9" in up.said())
    wait_until(lambda: any("services.planner" in command_line(pid) for pid in up.descendants() - {before}))


def test_a_second_up_in_the_same_place_says_who_is_there(up: Running) -> None:
    done = reshelve("up", "--port", "0", at=up.at)
    assert done.returncode == 2
    assert "already running on" in done.stderr
    assert environment_file(up)


def test_ctrl_c_stops_everything_and_the_data_stays(tmp_path: Path) -> None:
    first = started_up(tmp_path)
    put(first, "7.mp4")
    post(f"{first.url}/v1/contents", {"cid": "7", "filename": "7.mp4"})
    post(f"{first.url}/v1/views", [{"cid": "7", "count": 2345}])
    wait_until(lambda: explained(first, "7")["level"] == "gold")
    started = first.descendants()
    assert len(started) >= 6
    assert first.stop() == 0
    assert not [pid for pid in started if is_there(pid)]
    assert first.said().endswith("stopping …\nstopped\n")
    assert not (tmp_path / ".reshelve" / "environment").exists()
    assert "no `reshelve up` runs" in reshelve("explain", "7", at=tmp_path).stderr
    second = started_up(tmp_path)
    try:
        found = explained(second, "7")
        assert (found["level"], found["count"], found["file"]) == ("gold", 2345, "yes")
        started = second.descendants()
        # Killed as it stands: nothing that it started may outlive it.
        second.process.kill()
        wait_until(lambda: not [pid for pid in started if is_there(pid)])
    finally:
        second.stop()
