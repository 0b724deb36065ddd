"""The services as child processes: started, started again when they end by themselves, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import aiohttp

from cli.environment import child_environment
from cli.ports import MetricsPorts, url_of
from cli.server_process import last_lines
from cli.spawn import dying_with_us
from shared.errors import ReshelveError, StopServiceError
from shared.patience import pause

SERVICES = ("ingest", "planner", "mover", "recorder")
_MISCONFIGURED = 2
_STOP_TIMEOUT_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_STEADY_S = 60.0
_READY_TIMEOUT_S = 60.0
_LOG_KEPT_BYTES = 16 * 1024 * 1024

Tell = Callable[[str], None]


@dataclass
class Watch:
    """Ends everything: the operator through `stop`, and whatever went wrong, which also sets `fault`."""

    stop: asyncio.Event
    fault: ReshelveError | None = None

    def fail(self, error: ReshelveError) -> None:
        """The first fault counts."""
        self.fault = self.fault or error
        self.stop.set()


@dataclass
class Replica:
    """One process of a service. `settings` are its environment variables besides our own."""

    service: str
    name: str
    log: Path
    metrics_host: str
    metrics_port: int
    settings: dict[str, str] = field(repr=False)
    pid: int | None = None
    """None while it does not run."""

    async def run(self, ports: MetricsPorts, watch: Watch, tell: Tell) -> None:
        """Keep it running until `watch.stop`; it has ended then."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not watch.stop.is_set():
            began = loop.time()
            process, log_start = await self._start(ports)
            code = await _ended(process, watch.stop)
            self.pid = None
            if code is None:
                return
            if code == _MISCONFIGURED and not ports.is_free(self.metrics_port):
                continue  # somebody took the port since we looked: another one will do
            if code == _MISCONFIGURED:
                watch.fail(StopServiceError(self._last_words(log_start)))
                return
            if loop.time() - began > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            tell(f"{self.name} ended {_how(code)} (see {self.log}); starting it again in {pause_s:g} s")
            await pause(watch.stop, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _start(self, ports: MetricsPorts) -> tuple[asyncio.subprocess.Process, int]:
        if not ports.is_free(self.metrics_port):
            self.metrics_port = ports.choose(self.service)
        environment = child_environment(self.settings | {"RESHELVE_METRICS_PORT": str(self.metrics_port)})
        with self.log.open("ab") as log:
            log_start = log.tell()
            # -P: a directory `services` where we happen to stand must not hide ours.
            process = await asyncio.create_subprocess_exec(
                *dying_with_us([sys.executable, "-P", "-m", f"services.{self.service}"]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C in the terminal is for us alone: we decide when a service stops.
                start_new_session=True,
            )
        self.pid = process.pid
        return process, log_start

    def _last_words(self, log_start: int) -> str:
        with self.log.open("rb") as log:
            log.seek(log_start)
            lines = last_lines(log.read().decode(errors="replace")).splitlines()
        return lines[-1] if lines else f"{self.name} is misconfigured: see {self.log}"

    @property
    def metrics_url(self) -> str:
        return url_of(self.metrics_host, self.metrics_port)


class Replicas:
    """All services of this machine."""

    def __init__(self, replicas: Sequence[Replica], ports: MetricsPorts, watch: Watch, tell: Tell) -> None:
        """What happens to them is told through `tell`, one line each."""
        self.replicas = replicas
        self._ports = ports
        self._watch = watch
        self._tell = tell
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to keep them running."""
        for replica in self.replicas:
            task = asyncio.create_task(replica.run(self._ports, self._watch, self._tell))
            task.add_done_callback(self._check)
            self._tasks.append(task)

    def _check(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._watch.fail(StopServiceError(f"cannot start the services: {error}"))

    async def ready(self, more: Sequence[str] = ()) -> None:
        """Return when every replica says so, and the URLs `more` too; at once when all is to stop.

        Raises StopServiceError when that takes longer than a minute.
        """
        deadline = asyncio.get_running_loop().time() + _READY_TIMEOUT_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while not self._watch.stop.is_set():
                urls = [replica.metrics_url for replica in self.replicas]
                answers = await asyncio.gather(*(_is_ready(http, url) for url in [*urls, *more]))
                if all(answers) and all(replica.pid for replica in self.replicas):
                    return
                if asyncio.get_running_loop().time() > deadline:
                    late = [replica.name for replica, answer in zip(self.replicas, answers, strict=False) if not answer]
                    raise StopServiceError(
                        f"not ready after {_READY_TIMEOUT_S:.0f} s: {', '.join(late) or ', '.join(more)}: "
                        f"look at the logs in {self.replicas[0].log.parent}",
                    )
                await pause(self._watch.stop, 0.1)

    async def stop(self) -> None:
        """End all, with SIGTERM, and SIGKILL after a bound. Safe to repeat."""
        self._watch.stop.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _is_ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/readyz") as answer:
            return answer.status == HTTPStatus.OK
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _ended(process: asyncio.subprocess.Process, stop: asyncio.Event) -> int | None:
    """The exit code of a process that ended by itself; None when `stop` came first and it was ended."""
    exiting = asyncio.create_task(process.wait())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({exiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return None if stop.is_set() else exiting.result()
    finally:
        stopping.cancel()
        await _end(process, exiting)


async def _end(process: asyncio.subprocess.Process, exiting: asyncio.Task[int]) -> None:
    if exiting.done():
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    await asyncio.wait({exiting}, timeout=_STOP_TIMEOUT_S)
    if not exiting.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await exiting


def _how(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by signal {-code}"


def log_file(directory: Path, name: str) -> Path:
    """The log of that name; an overlong one is put aside first, in place of the one before it."""
    log = directory / f"{name}.log"
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_KEPT_BYTES:
            log.replace(log.with_suffix(".log.1"))
    return log
