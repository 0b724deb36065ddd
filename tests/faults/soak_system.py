"""A whole Reshelve for the soak: servers and services that can be killed and come back where they were."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.migrate import sample_levels
from cli.servers import PrivateMySQL, PrivateRedis
from shared.catalog import Connections, Registry
from shared.levels import Levels
from tests.faults.servers import Servers
from tests.oracle import Expected, sha256
from tests.ports import free_port
from tests.stack import SERVICES, Service, Stack

_TMPFS_MB = 24
_LARGEST_BYTES = 40_000
_SETTINGS = {
    "RESHELVE_LEASE_MS": "1500",
    # Kills use attempts up; nothing here is so broken that it should become a dead letter.
    "RESHELVE_MAX_ATTEMPTS": "200",
    "RESHELVE_MOVER_CONCURRENCY": "4",
}


@contextmanager
def level_directories(root: Path) -> Iterator[tuple[Path, bool]]:
    """Where the levels lie, and whether gold is a filesystem of its own: it is where we may mount."""
    gold = root / "gold"
    gold.mkdir(parents=True)
    mounted = os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={_TMPFS_MB}m", "reshelve-soak", str(gold))
    try:
        for name in ("bronze", "silver", "gold/files"):
            (root / name).mkdir()
        yield root, mounted
    finally:
        if mounted:
            # Lazily: a process that was killed may not be quite gone.
            _run("umount", "-l", str(gold))


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass
class Replica:
    """One place in which a service runs, again and again."""

    name: str
    http_port: int
    metrics_port: int
    service: Service
    busy: bool = False


@dataclass
class System:
    """Two replicas of each service, a Redis and a MariaDB of their own, and files on three levels."""

    servers: Servers
    levels: Path
    split: bool
    rng: random.Random
    stack: Stack
    replicas: list[Replica] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    @property
    def redis(self) -> PrivateRedis:
        return self.servers.redis

    @property
    def mysql(self) -> PrivateMySQL:
        return self.servers.mysql

    @property
    def http_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{r.http_port}/v1/views" for r in self.replicas if r.name == "ingest"]

    async def prepare(self, contents: int) -> None:
        """The level table, and tracked files on bronze."""
        connections = Connections(self.mysql.url)
        try:
            registry = Registry(connections)
            await registry.replace_levels(_levels(self.levels))
            for number in range(contents):
                self.files[f"c{number}"] = self.rng.randbytes(self.rng.randrange(_LARGEST_BYTES))
            for cid, data in self.files.items():
                file = self.levels / "bronze" / _filename(cid)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(data)
            assert await registry.register_many([(cid, _filename(cid)) for cid in self.files], "bronze") == []
        finally:
            await connections.close()

    async def start(self) -> None:
        """All services twice; returns when they are ready."""
        for name in SERVICES * 2:
            http_port, metrics_port = free_port(self.rng), free_port(self.rng)
            self.replicas.append(Replica(name, http_port, metrics_port, self._begin(name, http_port, metrics_port)))
        await self.ready()

    async def ready(self) -> None:
        await self.stack.ready(60, [replica.service for replica in self.replicas])

    def _begin(self, name: str, http_port: int, metrics_port: int) -> Service:
        ports = {"RESHELVE_HTTP_PORT": str(http_port), "RESHELVE_METRICS_PORT": str(metrics_port)}
        (service,) = self.stack.start(name, settings=ports)
        service.metrics_port = metrics_port
        return service

    def restart(self, replica: Replica) -> None:
        """Put a new process in the place of one that has ended."""
        replica.service = self._begin(replica.name, replica.http_port, replica.metrics_port)

    def look_after(self) -> None:
        """A service that ended by itself is a fault found; it is started again."""
        for replica in self.replicas:
            code = replica.service.process.poll()
            if code is not None and not replica.busy:
                last = replica.service.log.read_text(errors="replace")[-600:]
                self.found.append(f"{replica.name} ended by itself with {code}: {last}")
                self.restart(replica)

    async def kill_redis(self) -> None:
        await asyncio.to_thread(self._again_redis)

    async def kill_mysql(self) -> None:
        await asyncio.to_thread(self._again_mysql)

    def _again_redis(self) -> None:
        self.servers.kill_redis()
        self.servers.start_redis()

    def _again_mysql(self) -> None:
        self.servers.kill_mysql()
        self.servers.start_mysql()

    def expected(self, counts: dict[str, int]) -> dict[str, Expected]:
        return {cid: Expected(sha256(data), counts.get(cid, 0)) for cid, data in self.files.items()}


@contextmanager
def whole_system(directory: Path, rng: random.Random) -> Iterator[System]:
    """Servers that run, services not started yet; nothing outlives the block."""
    logs = directory / "logs"
    logs.mkdir()
    with level_directories(directory / "levels") as (levels, split), Servers.running(directory, rng) as servers:
        redis_urls, mysql_urls = servers.accounts.redis_urls, servers.accounts.mysql_urls
        stack = Stack(
            servers.redis.url, servers.mysql.url, logs, _SETTINGS, redis_urls=redis_urls, mysql_urls=mysql_urls
        )
        try:
            yield System(servers, levels, split, rng, stack)
        finally:
            stack.stop()


def _levels(root: Path) -> Levels:
    """The sample levels; gold lies beneath its mount, so that what fills the filesystem is none of its files."""
    return Levels(
        replace(level, path=str(root / "gold" / "files")) if level.content_level == "gold" else level
        for level in sample_levels(root)
    )


def _filename(cid: str) -> str:
    number = int(cid[1:])
    return f"show {number % 9}/ü{number}.mp4" if number % 4 == 0 else f"{number}.mp4"
