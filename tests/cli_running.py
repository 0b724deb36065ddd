"""The command `reshelve` as tests run it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from typer.testing import CliRunner

from cli.main import app

PROJECT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0


def environment(**variables: str) -> dict[str, str]:
    """Ours without any of Reshelve's settings."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RESHELVE_")}
    return plain | {"PYTHONPATH": str(PROJECT)} | variables


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def reshelve(*arguments: str | Path, at: Path, **variables: str) -> Done:
    """Run a command to its end, in this process: starting an interpreter for each would be most of the time."""
    ours = {name: None for name in os.environ if name.startswith("RESHELVE_")}
    with contextlib.chdir(at):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={**ours, **variables})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def reshelve_process(*arguments: str, at: Path) -> Done:
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(
        command, cwd=at, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Running:
    """A command that runs on, in a directory of its own."""

    def __init__(self, at: Path, *arguments: str) -> None:
        self.at = at
        self.output = at / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", *arguments],
                cwd=at,
                env=environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text()

    def wait_until_said(self, text: str) -> None:
        wait_until(lambda: text in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()

    @property
    def url(self) -> str:
        line = next(line for line in self.said().splitlines() if line.strip().startswith("HTTP"))
        return line.split()[1]

    def descendants(self) -> set[int]:
        """The pids of all processes that it started, and that these started."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found: set[int] = set()
        waiting = [self.process.pid]
        while waiting:
            below = children.get(waiting.pop(), [])
            found.update(below)
            waiting += below
        return found

    def service(self, name: str) -> int:
        """The pid of a service."""
        return next(pid for pid in self.descendants() if f"services.{name}" in command_line(pid))

    def stop(self) -> int:
        """As Ctrl-C does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()


def started_up(at: Path, *arguments: str) -> Running:
    running = Running(at, "up", "--port", "0", *arguments)
    try:
        running.wait_until_said("Ctrl-C stops it")
    except BaseException:
        running.stop()
        raise
    return running


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_there(pid: int) -> bool:
    return bool(command_line(pid))


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def post(url: str, value: object) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, orjson.dumps(value), headers, method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return orjson.loads(answer.read())


def put(up: Running, filename: str | bytes, level: str = "bronze") -> Path:
    path = up.at / ".reshelve" / "levels" / level / os.fsdecode(filename)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(filename))
    return path


def explained(up: Running, cid: str) -> dict[str, Any]:
    done = reshelve("explain", cid, "--json", at=up.at)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found
