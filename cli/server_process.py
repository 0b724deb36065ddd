"""A private server as a child of ours: its port, its secrets, its data directory, its beginning and its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Never, Self

from cli.spawn import spawn
from shared.errors import StopServiceError

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_OWNER_GONE_TIMEOUT_S = 30.0
_PORT_ATTEMPTS = 5
_LOG_LINES = 15
_LOG_TAIL_BYTES = 16 * 1024
_LOG_KEPT_BYTES = 4 * 1024 * 1024


class PortTakenError(Exception):
    """Another program took the port between our look and the server's bind."""


class DataDirLock:
    """Keeps a data directory to one server. The server inherits it: it holds until the server is really gone."""

    def __init__(self, data_dir: Path) -> None:
        """Raises StopServiceError when a server runs on `data_dir`, waiting only for one whose owner has ended."""
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(data_dir)
        except BaseException:
            os.close(self.fd)
            raise
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self.fd)

    def _acquire(self, data_dir: Path) -> None:
        deadline = time.monotonic() + _OWNER_GONE_TIMEOUT_S
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            owner = int(os.pread(self.fd, 20, 0) or b"0")
            # An owner that was killed leaves a server that is still writing its data down.
            if _alive(owner) or time.monotonic() > deadline:
                raise StopServiceError(
                    f"a private server is already running on {data_dir} (started by process {owner}): "
                    "stop that one first, or choose another data directory",
                )
            time.sleep(0.1)


class ServerProcess:
    """A running server and its log."""

    def __init__(
        self, command: Sequence[str], log: Path, lock: DataDirLock, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment` adds to our own, which has the last word."""
        if log.exists() and log.stat().st_size > _LOG_KEPT_BYTES:
            log.unlink()
        self._log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = spawn(command, output.fileno(), lock.fd, environment or {})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def log_tail(self) -> str:
        """The last lines that the server wrote since this start."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def wait_until(self, answers: Callable[[], bool], port_taken: Sequence[str]) -> None:
        """Return when `answers()`.

        Raises PortTakenError when it ended with one of the texts `port_taken` in its log, StopServiceError with the
        last lines of its log when it ended otherwise, or says nothing for 60 s. The server is stopped then.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            while not answers():
                if self.exit_code is not None:
                    self._raise_ended(port_taken)
                if time.monotonic() > deadline:
                    self._raise_silent()
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if it has not ended within 30 s. Safe to repeat."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _name(self) -> str:
        return self._log.stem

    def _said(self) -> str:
        return f"; the last lines of {self._log}:\n{self.log_tail()}"

    def _raise_silent(self) -> Never:
        raise StopServiceError(f"{self._name} did not answer within {START_TIMEOUT_S:.0f} s{self._said()}")

    def _raise_ended(self, port_taken: Sequence[str]) -> Never:
        if any(text in self.log_tail() for text in port_taken):
            raise PortTakenError
        raise StopServiceError(f"{self._name} ended with exit code {self.exit_code}{self._said()}")


class PrivateServer:
    """What every private server has: a URL, a pid, an end."""

    name: str

    def __init__(self, process: ServerProcess, lock: DataDirLock, port: int) -> None:
        self._process = process
        self._lock: DataDirLock | None = lock
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs: a supervisor's way to see that it ended by itself."""
        return self._process.exit_code

    def log_tail(self) -> str:
        """The last lines of its log, for an error message."""
        return self._process.log_tail()

    def stop(self) -> None:
        """End the server; its data stays. Safe to repeat."""
        self._process.stop()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_on_port(
    data_dir: Path,
    port: int | None,
    start: Callable[[int], ServerProcess],
) -> tuple[ServerProcess, int]:
    """Start on `port`, else on the port of last time, else on a free one; a port taken meanwhile costs another try.

    Raises StopServiceError when no port could be had.
    """
    remembered = data_dir / "port"
    for attempt in range(_PORT_ATTEMPTS):
        chosen = port or (_remembered_port(remembered) if attempt == 0 else None) or _free_port()
        try:
            process = start(chosen)
        except PortTakenError:
            if port is not None:
                break
            continue
        remembered.write_text(str(chosen))
        return process, chosen
    if port is not None:
        raise StopServiceError(
            f"port {port} on {LOOPBACK} is taken: stop the program that listens there, or name another"
        )
    raise StopServiceError(
        f"no free port on {LOOPBACK} in {_PORT_ATTEMPTS} attempts: look for a program that takes them all"
    )


def secret(path: Path) -> str:
    """The password kept in `path`, made on first use; readable by its owner only. Letters and digits."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    password = secrets.token_hex(24)
    write_private(path, password)
    return password


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def _alive(pid: int) -> bool:
    if pid == 0:
        return True  # the owner has the lock but has not written its pid yet
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _remembered_port(path: Path) -> int | None:
    """The port in the file, when there is one and it is free."""
    with contextlib.suppress(OSError, ValueError, OverflowError), socket.socket() as probe:
        # As the servers do: a port with connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = int(path.read_text())
        probe.bind((LOOPBACK, port))
        return port
    return None


def last_lines(text: str) -> str:
    """The last lines of a program's output, for an error message."""
    return "\n".join(text.splitlines()[-_LOG_LINES:])
