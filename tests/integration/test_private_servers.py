from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from cli import private_mysql, private_redis, server_process
from cli.servers import PrivateMySQL, PrivateRedis, find_mysql_server, find_redis_server
from shared.errors import StopServiceError
from tests.conftest import execute, ping_mysql, ping_redis

START_BOTH = """
import sys, time
from pathlib import Path
from cli.servers import PrivateMySQL, PrivateRedis
root = Path(sys.argv[1])
print(PrivateRedis.start(root / "redis").pid, PrivateMySQL.start(root / "mysql").pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _servers_are_here() -> None:
    if find_redis_server() is None or find_mysql_server() is None:
        pytest.fail(f"{private_redis.INSTALL_REDIS}; {private_mysql.INSTALL_MYSQL}")


def increment(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.incr("runs"))


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Neither running nor a zombie whose parent has yet to look."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_redis_has_the_allocator_that_it_is_commonly_built_with(tmp_path: Path) -> None:
    library = private_redis.allocator().get("LD_PRELOAD")
    with PrivateRedis.start(tmp_path / "redis") as server:
        mapped = Path(f"/proc/{server.pid}/maps").read_text()
        variables = Path(f"/proc/{server.pid}/environ").read_text()
    # Without the library on the machine glibc's own is set, which keeps freed memory at hand as well.
    assert "libjemalloc" in mapped if library else "tcache_count" in variables


def test_redis_data_stays_between_runs(tmp_path: Path) -> None:
    with PrivateRedis.start(tmp_path / "redis") as server:
        assert increment(server.url) == 1
        first_url = server.url
    assert server.exit_code == 0
    assert not ping_redis(first_url)
    with PrivateRedis.start(tmp_path / "redis") as server:
        assert server.url == first_url
        assert increment(server.url) == 2


def test_redis_loses_nothing_it_acknowledged_when_it_is_killed(tmp_path: Path) -> None:
    with PrivateRedis.start(tmp_path / "redis") as server:
        increment(server.url)
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: server.exit_code is not None)
    with PrivateRedis.start(tmp_path / "redis") as server:
        assert increment(server.url) == 2


def test_redis_is_set_up_to_keep_everything(tmp_path: Path) -> None:
    with PrivateRedis.start(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        assert client.config_get(*wanted) == wanted
        assert client.config_get("hash-max-listpack-entries") == {"hash-max-listpack-entries": "32"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_mysql_data_stays_between_runs(tmp_path: Path) -> None:
    with PrivateMySQL.start(tmp_path / "mysql") as server:
        execute(server.url, "CREATE TABLE runs (n INT)", "INSERT INTO runs VALUES (1)")
        execute(server.admin_url, "CREATE DATABASE reshelve_other")
        first_url = server.url
    assert server.exit_code == 0
    with PrivateMySQL.start(tmp_path / "mysql") as server:
        assert server.url == first_url
        execute(server.url, "UPDATE runs SET n = n + 1", "USE reshelve_other")


def test_passwords_are_for_their_owner_only(tmp_path: Path) -> None:
    with PrivateRedis.start(tmp_path / "redis") as redis_server, PrivateMySQL.start(tmp_path / "mysql") as mysql_server:
        for secret in (
            "redis/password",
            "redis/redis.conf",
            "mysql/password",
            "mysql/admin_password",
            "mysql/init.sql",
        ):
            assert stat.S_IMODE((tmp_path / secret).stat().st_mode) == 0o600
        for directory in ("redis", "redis/data", "mysql", "mysql/data"):
            assert stat.S_IMODE((tmp_path / directory).stat().st_mode) & 0o077 == 0
        password = (tmp_path / "mysql/password").read_text()
        for pid in (redis_server.pid, mysql_server.pid):
            arguments = Path(f"/proc/{pid}/cmdline").read_text()
            assert password not in arguments
            assert (tmp_path / "redis/password").read_text() not in arguments
        assert not ping_mysql(mysql_server.url.replace(password, "wrong"))
        assert not ping_mysql(f"mysql://root@127.0.0.1:{mysql_server.port}/mysql")
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=redis_server.port) as client:
            client.ping()


@pytest.mark.parametrize("kind", [PrivateRedis, PrivateMySQL])
def test_second_start_on_the_same_directory_is_refused(kind: type[PrivateRedis | PrivateMySQL], tmp_path: Path) -> None:
    with kind.start(tmp_path / "data") as server:
        with pytest.raises(
            StopServiceError, match=rf"already running on {tmp_path}/data .started by process {os.getpid()}"
        ):
            kind.start(tmp_path / "data")
        assert server.exit_code is None
    with kind.start(tmp_path / "data"):
        pass


def test_servers_end_when_we_are_killed_and_start_again(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", START_BOTH, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(map(gone, pids))
        parent.kill()
        # At once: the killed parent's servers are still shutting down, and the new ones wait for them.
        parent.wait()
        with (
            PrivateRedis.start(tmp_path / "redis") as redis_server,
            PrivateMySQL.start(tmp_path / "mysql") as mysql_server,
        ):
            assert all(map(gone, pids))
            assert ping_redis(redis_server.url)
            assert ping_mysql(mysql_server.url)
    finally:
        parent.kill()
        parent.communicate()


def test_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    servers: list[PrivateRedis] = []
    thread = threading.Thread(target=lambda: servers.append(PrivateRedis.start(tmp_path / "redis")))
    thread.start()
    thread.join()
    with servers[0] as server:
        time.sleep(0.3)
        assert server.exit_code is None
        assert ping_redis(server.url)


@pytest.mark.parametrize("kind", [PrivateRedis, PrivateMySQL])
def test_port_that_is_taken(kind: type[PrivateRedis | PrivateMySQL], tmp_path: Path) -> None:
    with kind.start(tmp_path / "data") as server:
        port = server.port
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(StopServiceError, match=f"port {port} on 127.0.0.1 is taken"):
            kind.start(tmp_path / "data", port)
        with kind.start(tmp_path / "data") as server:
            assert server.port != port


def test_race_for_a_port_costs_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = server_process._free_port
    with socket.create_server(("127.0.0.1", 0)) as winner:
        chosen = iter([winner.getsockname()[1], free_port()])
        monkeypatch.setattr(server_process, "_free_port", lambda: next(chosen))
        with PrivateRedis.start(tmp_path / "redis") as server:
            assert server.port != winner.getsockname()[1]
            assert ping_redis(server.url)


def test_data_directory_with_a_long_name(tmp_path: Path) -> None:
    long_name = tmp_path / ("d" * 100)
    with PrivateMySQL.start(long_name) as server:
        assert ping_mysql(server.url)
        sockets = Path(server._sockets.socket).parent
        assert len(os.fsencode(server._sockets.socket)) <= 107
        assert sockets.is_dir()
    assert not sockets.exists()


def test_half_made_system_tables_are_made_again(tmp_path: Path) -> None:
    part = tmp_path / "mysql" / "data.part"
    part.mkdir(parents=True)
    (part / "ibdata1").write_bytes(b"half")
    with PrivateMySQL.start(tmp_path / "mysql") as server:
        assert ping_mysql(server.url)
    assert not part.exists()


@pytest.mark.parametrize(("kind", "log"), [(PrivateRedis, "redis.log"), (PrivateMySQL, "mysql.log")])
def test_server_that_cannot_start_shows_its_log(
    kind: type[PrivateRedis | PrivateMySQL], log: str, tmp_path: Path
) -> None:
    directory = tmp_path / "server"
    kind.start(directory).stop()
    damaged = next(
        path for path in (directory / "data").rglob("*") if path.suffix == ".manifest" or path.name == "ibdata1"
    )
    damaged.write_bytes(b"damaged")
    with pytest.raises(
        StopServiceError, match=rf"ended with exit code \d+; the last lines of {directory}/{log}:\n.+\n"
    ):
        kind.start(directory)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (PrivateRedis, r"pip install 'reshelve\[embedded\]', or apt-get install redis-server"),
        (PrivateMySQL, "apt-get install mariadb-server-core mariadb-client-core"),
    ],
)
def test_missing_server_says_what_to_install(
    kind: type[PrivateRedis | PrivateMySQL], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(private_redis, "_wheel_server", lambda: None)
    monkeypatch.setattr(private_mysql, "_SERVER_DIRS", ())
    with pytest.raises(StopServiceError, match=remedy):
        kind.start(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_machine_s_own_redis_does_where_the_wheel_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_redis, "_wheel_server", lambda: None)
    own = tmp_path / "bin"
    own.mkdir()
    (own / "redis-server").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(own))
    assert find_redis_server() == own / "redis-server"
