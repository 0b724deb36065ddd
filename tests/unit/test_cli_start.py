"""What stands before the start: settings, ports, the demo's own directory; and how an error is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import time
from pathlib import Path

import pytest
import typer
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from cli.demo_home import DemoHome
from cli.environment import (
    child_environment,
    needed_url,
    operator_settings,
    remove_environment,
    write_environment,
)
from cli.ports import MetricsPorts, http_port, url_of
from cli.replicas import Replica, Replicas, Watch, log_file
from cli.running import INTERRUPTED, explained, or_interrupted, run
from shared.catalog import CatalogDownError, CatalogRefusedError
from shared.errors import InvalidError, ReshelveError, RetryError, StopServiceError


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RESHELVE_")]:
        monkeypatch.delenv(name)


class TestEnvironment:
    def test_a_running_up_lends_its_servers(self, tmp_path: Path) -> None:
        write_environment(tmp_path, {"RESHELVE_REDIS_URL": "redis://:p'w d@h:1/0", "RESHELVE_MYSQL_URL": "mysql://x"})
        assert stat.S_IMODE((tmp_path / "environment").stat().st_mode) == 0o600
        settings = operator_settings(tmp_path)
        assert settings.redis_url.get_secret_value() == "redis://:p'w d@h:1/0"
        assert needed_url(settings, "mysql_url", tmp_path) == "mysql://x"
        assert "p'w" not in repr(settings)

    def test_the_environment_goes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_environment(tmp_path, {"RESHELVE_REDIS_URL": "redis://file", "RESHELVE_MYSQL_URL": "mysql://file"})
        monkeypatch.setenv("RESHELVE_REDIS_URL", "redis://variable")
        settings = operator_settings(tmp_path)
        assert settings.redis_url.get_secret_value() == "redis://variable"
        assert settings.mysql_url.get_secret_value() == "mysql://file"

    def test_nothing_set_and_nothing_running_says_what_to_do(self, tmp_path: Path) -> None:
        remove_environment(tmp_path)
        with pytest.raises(StopServiceError, match=r"RESHELVE_REDIS_URL is not set .* start `reshelve up`"):
            needed_url(operator_settings(tmp_path), "redis_url", tmp_path)

    def test_children_find_our_modules_and_no_other_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RESHELVE_REDIS_URL_FILE", "/run/secret")
        monkeypatch.setenv("PYTHONPATH", "/elsewhere")
        environment = child_environment({"RESHELVE_REDIS_URL": "redis://private"})
        assert environment["RESHELVE_REDIS_URL"] == "redis://private"
        assert "RESHELVE_REDIS_URL_FILE" not in environment
        ours, theirs = environment["PYTHONPATH"].split(os.pathsep)
        assert (Path(ours) / "services").is_dir()
        assert theirs == "/elsewhere"


class TestPorts:
    def test_a_taken_http_port_says_so(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(StopServiceError, match=f"port {port} on 127.0.0.1 is taken: .* --port"):
                http_port("127.0.0.1", port)

    def test_zero_is_a_free_one(self) -> None:
        assert http_port("127.0.0.1", 0) > 0

    def test_a_host_that_is_not_ours(self) -> None:
        with pytest.raises(StopServiceError, match=r"cannot listen on 192\.0\.2\.1"):
            http_port("192.0.2.1", 0)

    def test_every_replica_has_a_port_of_its_own(self) -> None:
        ports = MetricsPorts("127.0.0.1")
        given = [ports.choose("mover") for _ in range(20)]
        assert len(set(given)) == 20

    @pytest.mark.parametrize(
        ("host", "url"),
        [("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080"), ("files.lan", "http://files.lan:8080")],
    )
    def test_urls_can_be_reached(self, host: str, url: str) -> None:
        assert url_of(host, 8080) == url


class TestDemoHome:
    def test_is_made_afresh_and_removed(self, tmp_path: Path) -> None:
        with DemoHome(tmp_path / "demo") as home:
            (home.path / "left").touch()
            home.keep = True
        with DemoHome(tmp_path / "demo") as home:
            assert not (home.path / "left").exists()
        assert not home.path.exists()

    def test_stays_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), DemoHome(tmp_path / "demo"):
            raise ZeroDivisionError
        assert (tmp_path / "demo").is_dir()

    def test_never_removes_what_it_did_not_make(self, tmp_path: Path) -> None:
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "precious").touch()
        with pytest.raises(StopServiceError, match="was not made by a demo"), DemoHome(tmp_path / "demo"):
            pass
        assert (tmp_path / "demo" / "precious").exists()

    def test_two_at_once_are_one_too_many(self, tmp_path: Path) -> None:
        with DemoHome(tmp_path / "demo"), pytest.raises(StopServiceError, match="another demo plays"):
            DemoHome(tmp_path / "demo").__enter__()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CatalogDownError("catalog down", "no way"), "MySQL does not let us work: no way: .*RESHELVE_MYSQL_URL"),
        (RetryError("mysql unreachable", "h:1"), "MySQL does not let us work: h:1: .*RESHELVE_MYSQL_URL"),
        (CatalogRefusedError("catalog refused", "1146: Table 'x.level' doesn't exist"), "run `reshelve migrate`"),
        (CatalogRefusedError("catalog refused", "1064: syntax"), "catalog refused: 1064: syntax"),
        (RedisConnectionError("Error 111"), "Redis does not answer: Error 111: .*RESHELVE_REDIS_URL"),
        (AuthenticationError("WRONGPASS"), "Redis refuses the login: WRONGPASS: .*RESHELVE_REDIS_URL"),
        (InvalidError("as it is"), "^as it is$"),
    ],
)
def test_errors_name_cause_and_remedy(error: ReshelveError, line: str) -> None:
    with pytest.raises(ReshelveError, match=line):
        raise InvalidError(explained(error))


class TestRun:
    def test_an_expected_error_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        async def work(_: asyncio.Event) -> int:
            raise InvalidError("no such thing: name another")

        with pytest.raises(typer.Exit) as ended:
            run(work)
        assert ended.value.exit_code == 1
        assert capsys.readouterr().err == "reshelve: no such thing: name another\n"

    def test_a_signal_is_an_event(self) -> None:
        async def work(stop: asyncio.Event) -> int:
            os.kill(os.getpid(), signal.SIGINT)
            await stop.wait()
            return 5

        with pytest.raises(typer.Exit) as ended:
            run(work)
        assert ended.value.exit_code == 5

    def test_a_command_in_the_background_of_a_script_hears_ctrl_c_too(self) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.test_a_signal_is_an_event()
        finally:
            signal.signal(signal.SIGINT, before)

    async def test_work_that_is_interrupted_has_ended(self) -> None:
        stop, cleaned = asyncio.Event(), asyncio.Event()

        async def work() -> int:
            stop.set()
            try:
                await asyncio.sleep(60)
            finally:
                cleaned.set()
            return 0

        assert await or_interrupted(work(), stop) == INTERRUPTED
        assert cleaned.is_set()

    async def test_work_that_is_done_has_its_say(self) -> None:
        async def work() -> int:
            return 3

        assert await or_interrupted(work(), asyncio.Event()) == 3


class TestReplicas:
    """With services that do nothing but end; `services.<name>` is a module in a directory of the test's own."""

    @pytest.fixture
    def start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starter:
        return Starter(tmp_path, monkeypatch)

    async def test_one_that_ends_is_started_again(self, start: Starter) -> None:
        replicas = start("import sys, time; print('begun'); sys.exit(1)")
        await start.until(lambda: start.log.read_text().count("begun") >= 2)
        await replicas.stop()
        assert start.told[0].startswith(f"planner ended with exit code 1 (see {start.log}); starting it again in 0.5 s")
        assert start.watch.fault is None

    async def test_a_misconfigured_one_ends_all(self, start: Starter) -> None:
        replicas = start(
            "import sys; print('noise', flush=True); "
            "print('planner: RESHELVE_X: is wrong', file=sys.stderr); sys.exit(2)"
        )
        await start.until(start.watch.stop.is_set)
        await replicas.stop()
        assert str(start.watch.fault) == "planner: RESHELVE_X: is wrong"

    async def test_one_whose_port_was_taken_gets_another(self, start: Starter) -> None:
        replicas = start(
            "import os, sys; print('port', os.environ['RESHELVE_METRICS_PORT'], flush=True); "
            "import time; time.sleep(1); sys.exit(2)"
        )
        await start.until(lambda: "port" in start.log.read_text())
        with socket.create_server(("127.0.0.1", replicas.replicas[0].metrics_port)):
            await start.until(lambda: len({*start.log.read_text().splitlines()}) > 1)
        await replicas.stop()
        assert start.told == []

    async def test_a_deaf_one_is_killed(self, start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cli.replicas._STOP_TIMEOUT_S", 0.2)
        replicas = start(
            "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
        )
        await start.until(lambda: "deaf" in start.log.read_text())
        pid = replicas.replicas[0].pid
        await replicas.stop()
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Starter:
    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._home = home
        self._monkeypatch = monkeypatch
        self.watch = Watch(asyncio.Event())
        self.told: list[str] = []
        self.log = log_file(home, "planner")
        self.log.touch()

    def __call__(self, program: str) -> Replicas:
        (self._home / "services").mkdir()
        (self._home / "services" / "__init__.py").touch()
        (self._home / "services" / "planner.py").write_text(program)
        self._monkeypatch.setattr(
            "cli.replicas.child_environment", lambda values: values | {"PYTHONPATH": str(self._home)}
        )
        ports = MetricsPorts("127.0.0.1")
        replica = Replica("planner", "planner", self.log, "127.0.0.1", ports.choose("planner"), {})
        replicas = Replicas([replica], ports, self.watch, self.told.append)
        replicas.start()
        return replicas

    @staticmethod
    async def until(done: object) -> None:
        assert callable(done)
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


def test_an_overlong_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.replicas._LOG_KEPT_BYTES", 10)
    (tmp_path / "mover.log").write_text("x" * 11)
    assert log_file(tmp_path, "mover") == tmp_path / "mover.log"
    assert not (tmp_path / "mover.log").exists()
    assert (tmp_path / "mover.log.1").read_text() == "x" * 11
