"""The four services as real processes, against given servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.ports import free_port

SERVICES = ("ingest", "planner", "mover", "recorder")
_WRONG = (
    *("Traceback", "ended by an error", "exception was never retrieved"),
    *("no permissions", "ACL failure", "denied to user"),
)
_PROJECT = Path(__file__).parent.parent


@dataclass
class Service:
    """One process; `log` holds what it wrote."""

    name: str
    process: subprocess.Popen[bytes]
    metrics_port: int
    log: Path

    def kill(self) -> None:
        """SIGKILL, as the fault it is."""
        self.process.kill()
        self.process.wait()

    async def exposition(self) -> str:
        """What Prometheus would get of it."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    def stop(self, timeout_s: float = 15) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout_s)


@dataclass
class Stack:
    """Starts services, finds them by name, ends whatever still runs.

    A service that is not in `redis_urls` or `mysql_urls` logs in as `redis_url` and `mysql_url` say.
    """

    redis_url: str
    mysql_url: str
    logs: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    services: list[Service] = field(default_factory=list)
    redis_urls: Mapping[str, str] = field(default_factory=dict)
    mysql_urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def http(self) -> str:
        """Where ingest answers."""
        return f"http://127.0.0.1:{self.http_port}"

    def redis_url_of(self, name: str) -> str:
        """As what the service logs in."""
        return self.redis_urls.get(name, self.redis_url)

    def mysql_url_of(self, name: str) -> str:
        return self.mysql_urls.get(name, self.mysql_url)

    def start(
        self, *names: str, settings: Mapping[str, str] | None = None, through: Sequence[str] = ()
    ) -> list[Service]:
        """Start one process per name; a name may come several times. `through` is a command that runs each."""
        return [self._start(name, settings or {}, through) for name in names]

    def _start(self, name: str, settings: Mapping[str, str], through: Sequence[str]) -> Service:
        port = free_port()
        log = self.logs / f"{name}-{len(self.services)}.log"
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RESHELVE_")},
            "PYTHONPATH": str(_PROJECT),
            "RESHELVE_REDIS_URL": self.redis_url_of(name),
            "RESHELVE_MYSQL_URL": self.mysql_url_of(name),
            "RESHELVE_METRICS_PORT": str(port),
            "RESHELVE_HTTP_PORT": str(self.http_port),
            **self.settings,
            **settings,
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*through, sys.executable, "-m", f"services.{name}"], env=environment, stdout=out, stderr=out
            )
        service = Service(name, process, port, log)
        self.services.append(service)
        return service

    async def ready(self, timeout_s: float = 30, services: Sequence[Service] | None = None) -> None:
        """Returns when every running service says that it is ready."""
        deadline = time.monotonic() + timeout_s
        async with aiohttp.ClientSession() as session:
            for service in services or [s for s in self.services if s.process.poll() is None]:
                while not await is_ready(session, service):
                    if service.process.poll() is not None or time.monotonic() > deadline:
                        raise AssertionError(f"{service.name} is not ready:\n{service.log.read_text()[-3000:]}")
                    await asyncio.sleep(0.05)

    def named(self, name: str) -> list[Service]:
        """The services of that name that run."""
        return [service for service in self.services if service.name == name and service.process.poll() is None]

    def stop(self) -> dict[str, list[int]]:
        """SIGTERM to all at once; the exit codes by name. Nothing outlives this call."""
        running = [service for service in self.services if service.process.poll() is None]
        for service in running:
            service.process.send_signal(signal.SIGCONT)
            service.process.terminate()
        codes: dict[str, list[int]] = {}
        for service in running:
            try:
                code = service.process.wait(15)
            except subprocess.TimeoutExpired:
                service.kill()
                code = service.process.returncode
            codes.setdefault(service.name, []).append(code)
        return codes

    def errors(self) -> list[str]:
        """Log lines that say something is wrong with the code, not with the world."""
        return [
            f"{service.name}: {line[:400]}"
            for service in self.services
            for line in service.log.read_text(errors="replace").splitlines()
            if any(sign in line for sign in _WRONG)
        ]


async def is_ready(session: aiohttp.ClientSession, service: Service) -> bool:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with session.get(f"http://127.0.0.1:{service.metrics_port}/readyz") as answer:
            return answer.status == 200
    return False
