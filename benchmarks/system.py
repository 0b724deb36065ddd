"""Reshelve as it runs: real service processes against servers of our own, all on the same two cores."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncmy

from cli.migrate import migrate
from cli.servers import PrivateMySQL, PrivateRedis
from cli.spawn import dying_with_us
from shared.keys import META
from shared.levels import Level, Levels
from shared.mysql_url import parse_mysql_url
from shared.redis_client import connect
from shared.state.contents import Contents
from shared.state.scripts import Scripts
from tests.ports import free_port

Rows = Sequence[Sequence[Any]]
Query = Callable[..., Awaitable[Rows]]
"""`await query(sql, arguments)`"""

HOST = "127.0.0.1"
CORES = 2
_BUFFER_POOL_MB = 256
_READY_S = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PROJECT = Path(__file__).resolve().parent.parent
_numbers = itertools.count(1)


@contextmanager
def two_cores() -> Iterator[None]:
    """All that this thread starts meanwhile shares two cores, however many there are."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:CORES])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Servers:
    """A Redis and a MariaDB or MySQL of our own: an acknowledged write and a committed transaction are on disk."""

    redis: PrivateRedis
    mysql: PrivateMySQL
    work: Path

    @classmethod
    @contextmanager
    def started(cls, work: Path) -> Iterator[Servers]:
        """Servers whose data lie beneath `work`."""
        with (
            PrivateRedis.start(work / "redis") as redis,
            PrivateMySQL.start(work / "mysql", buffer_pool_mb=_BUFFER_POOL_MB) as mysql,
        ):
            yield cls(redis, mysql, work)

    def cpu_s(self) -> float:
        """What both have used so far."""
        return _cpu_s(self.redis.pid) + _cpu_s(self.mysql.pid)


@dataclass
class Service:
    """One process of a service."""

    name: str
    process: subprocess.Popen[bytes]
    metrics_port: int
    log: Path

    def cpu_s(self) -> float:
        return _cpu_s(self.process.pid)

    async def figure(self, metric: str) -> float:
        """What the service says of a metric without labels."""
        url = f"http://{HOST}:{self.metrics_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{metric} ")]
        return float(value)

    def pause(self) -> None:
        """It holds what it has, and does nothing until `go_on`."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@dataclass
class System:
    """Services over an empty Redis and a database of their own."""

    servers: Servers
    mysql_url: str
    levels: Levels
    scripts: Scripts
    connection: Any
    settings: Mapping[str, str]
    directory: Path
    services: list[Service] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    """Where ingest listens."""

    @classmethod
    @asynccontextmanager
    async def fresh(
        cls, servers: Servers, paths: Sequence[Path], *, partitions: int = 8, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[System]:
        """Bronze, silver (and gold) in `paths`; nothing is in any of them yet, and no service runs."""
        levels = _levels(paths)
        async with AsyncExitStack() as stack:
            mysql_url, connection = await stack.enter_async_context(_database(servers.mysql.url, levels))
            redis = connect(servers.redis.url)
            stack.push_async_callback(redis.aclose)
            await redis.flushall()
            directory = servers.work / f"services-{next(_numbers)}"
            directory.mkdir()
            wanted = {"RESHELVE_PARTITIONS": str(partitions), **(settings or {})}
            system = cls(servers, mysql_url, levels, Scripts(redis, partitions), connection, wanted, directory)
            stack.callback(system.stop)
            await Contents(system.scripts).make_groups(("views", "moves", "placed", "retires"))
            yield system

    async def at(self, paths: Sequence[Path]) -> None:
        """The levels lie in other directories from here on; services that run know nothing of it yet."""
        self.levels = _levels(paths)
        for level in self.levels:
            await self.query("UPDATE level SET path = %s WHERE content_level = %s", (level.path, level.content_level))

    async def start(self, *names: str) -> list[Service]:
        """One process per name, each ready; a name may come several times."""
        started = [self._start(name) for name in names]
        self.services += started
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + _READY_S
            for service in started:
                while not await _is_ready(session, service):
                    if service.process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{service.name} is not ready:\n{service.log.read_text()[-2000:]}")
                    await asyncio.sleep(0.02)
        return started

    async def start_planner(self) -> Service:
        """One that has taken over the level table: before there are contents, or it puts them all up for review."""
        (planner,) = await self.start("planner")
        async with asyncio.timeout(_READY_S):
            while not await self.scripts.redis.hexists(META, "levels"):
                await asyncio.sleep(0.01)
        return planner

    def _start(self, name: str) -> Service:
        port = free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RESHELVE_")} | {
            "PYTHONPATH": str(_PROJECT),
            "RESHELVE_REDIS_URL": self.servers.redis.url,
            "RESHELVE_MYSQL_URL": self.mysql_url,
            "RESHELVE_METRICS_PORT": str(port),
            "RESHELVE_HTTP_PORT": str(self.port),
            **self.settings,
        }
        log = self.directory / f"{name}-{len(self.services)}-{port}.log"
        with log.open("wb") as out:
            command = dying_with_us([sys.executable, "-m", f"services.{name}"])
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        return Service(name, process, port, log)

    def stop(self) -> None:
        """Nothing outlives this call."""
        for service in self.services:
            if service.process.poll() is None:
                service.go_on()
                service.process.terminate()
        for service in self.services:
            try:
                service.process.wait(15)
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()
        self.services.clear()

    def cpu_s(self) -> float:
        """What the services and both servers have used so far."""
        return self.servers.cpu_s() + sum(service.cpu_s() for service in self.services)

    async def query(self, sql: str, arguments: Sequence[Any] = ()) -> Rows:
        """The rows; the statement commits by itself."""
        return await _query(self.connection, sql, arguments)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Query]:
        """`await query(sql, arguments)` on a connection of its own."""
        connection = await asyncmy.connect(**parse_mysql_url(self.mysql_url).connect_arguments(), autocommit=True)

        async def query(sql: str, arguments: Sequence[Any] = ()) -> Rows:
            return await _query(connection, sql, arguments)

        try:
            yield query
        finally:
            await connection.ensure_closed()

    async def drained(self, *streams: str, timeout_s: float = 120) -> None:
        """Returns when the streams are empty and nobody holds an entry. Raises where one became a dead letter."""
        contents = Contents(self.scripts)
        deadline = time.monotonic() + timeout_s
        while True:
            backlog = await contents.backlog()
            if not any(backlog[name] for name in streams):  # type: ignore[index]  # names of streams
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"after {timeout_s:.0f} s there is still {backlog} to do")
            await asyncio.sleep(0.02)
        waiting = await contents.waiting()
        if waiting["dead"] or waiting["later"]:
            raise RuntimeError(f"not everything went well: {waiting}")


def _levels(paths: Sequence[Path]) -> Levels:
    names = zip(("bronze", "silver", "gold"), (0, 1000, 2000), (999, 1999, 3001), paths, strict=False)
    return Levels(Level(name, lowest, highest, str(path)) for name, lowest, highest, path in names)


@asynccontextmanager
async def _database(server_url: str, levels: Levels) -> AsyncIterator[tuple[str, Any]]:
    """The URL of a database with this level table, and a connection to it."""
    address = parse_mysql_url(server_url)
    name = f"reshelve_{next(_numbers)}"
    connection = await asyncmy.connect(**address.connect_arguments(), autocommit=True)
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            url = address.url(database=name)
            await migrate(url, None)
            await cursor.execute(f"USE {name}")
            for level in levels:
                row = (level.content_level, level.min_counts, level.max_counts, level.path)
                await cursor.execute("INSERT INTO level VALUES (%s, %s, %s, %s)", row)
        yield url, connection
    finally:
        async with connection.cursor() as cursor:
            await cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        await connection.ensure_closed()


async def _query(connection: Any, sql: str, arguments: Sequence[Any]) -> Rows:
    async with connection.cursor() as cursor:
        await cursor.execute(sql, tuple(arguments) or None)
        rows: Rows = await cursor.fetchall()
        return rows


async def _is_ready(session: aiohttp.ClientSession, service: Service) -> bool:
    if service.process.poll() is not None:
        # Whoever answers in its place is another.
        return False
    try:
        async with session.get(f"http://{HOST}:{service.metrics_port}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError):
        return False


def _cpu_s(pid: int) -> float:
    """User and system time of a process with its threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS
