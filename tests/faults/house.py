"""A running system for faults: its contents, its servers, what was answered with 2xx, the oracle at the end."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import asyncmy

from shared.catalog import Connections, Registry
from shared.keys import META, PartitionKeys, partition_of
from shared.mysql_url import parse_mysql_url
from tests.oracle import Expected, Oracle, World, redis_at, sha256
from tests.stack import Service, Stack, is_ready

LEASE_MS = 1000
PARTITIONS = 4
SETTINGS = {"RESHELVE_LEASE_MS": str(LEASE_MS), "RESHELVE_PARTITIONS": str(PARTITIONS)}
PARTITION_KEYS = [PartitionKeys(partition) for partition in range(PARTITIONS)]
_BYTES = 2000


@dataclass
class House:
    """`counts` holds what was accepted: the oracle compares it with what was counted."""

    stack: Stack
    level_root: Path
    files: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def redis_url(self) -> str:
        return self.stack.redis_url

    @property
    def mysql_url(self) -> str:
        return self.stack.mysql_url

    async def contents(self, number: int, level: str = "bronze") -> list[str]:
        """New contents on a level, with their files."""
        cids = [f"c{next(self._numbers)}" for _ in range(number)]
        for cid in cids:
            self.files[cid] = os.urandom(_BYTES)
            (self.level_root / level / f"{cid}.mp4").write_bytes(self.files[cid])
        connections = Connections(self.mysql_url)
        try:
            refused = await Registry(connections).register_many([(cid, f"{cid}.mp4") for cid in cids], level)
        finally:
            await connections.close()
        assert refused == []
        return cids

    async def restart(self, *names: str, settings: Mapping[str, str] | None = None) -> list[Service]:
        """End what runs under these names and start one of each anew; returns when they are ready."""
        for name in names:
            for service in self.stack.named(name):
                assert service.stop() == 0, service.log.read_text()[-3000:]
        services = self.stack.start(*names, settings=settings)
        await self.stack.ready(services=services)
        return services

    async def view(self, views: Mapping[str, int], *, key: str = "", timeout_s: float = 10) -> int:
        """One request; the status, or 0 where no answer came. What got 202 is remembered."""
        lines = [{"cid": cid, "views": n} for cid, n in views.items()]
        status = await self.post(lines, {"Idempotency-Key": key} if key else {}, timeout_s=timeout_s)
        if status == 202:
            self.counts.update(views)
        return status

    async def total(self, counts: Mapping[str, int]) -> int:
        """As `view`, with absolute totals."""
        status = await self.post([{"cid": cid, "count": n} for cid, n in counts.items()], {})
        if status == 202:
            self.counts.update({cid: n - self.counts[cid] for cid, n in counts.items()})
        return status

    async def post(
        self, body: object, headers: Mapping[str, str], *, timeout_s: float = 10, content_type: str = "application/json"
    ) -> int:
        """The status, or 0 where no answer came."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(
                    f"{self.stack.http}/v1/views", json=body, headers={**headers, "Content-Type": content_type}
                ) as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

    async def view_surely(self, views: Mapping[str, int], key: str, *, timeout_s: float = 10) -> int:
        """Repeat under the same key until it is answered with 202; returns how many requests that took."""
        deadline = time.monotonic() + 60
        for requests in range(1, 1000):
            status = await self.view(views, key=key, timeout_s=timeout_s)
            if status == 202:
                return requests
            assert status in {0, 503}, f"a repetition got {status}"
            assert time.monotonic() < deadline, "no 202 within a minute"
            await asyncio.sleep(0.1)
        raise AssertionError

    def expected(self, *, counted: bool = True) -> dict[str, Expected]:
        return {
            cid: Expected(sha256(data), self.counts[cid] if counted and cid in self.counts else None)
            for cid, data in self.files.items()
        }

    async def judge(self, *, counted: bool = True, **options: Any) -> World:
        """The oracle's word on everything that was ever put into this house."""
        oracle = Oracle(self.redis_url, self.mysql_url)
        try:
            return await oracle.judge(self.expected(counted=counted), **options)
        finally:
            await oracle.close()

    async def start_over(self) -> None:
        """An empty house, for the test after one whose fault leaves counts lost, copies or dead letters behind."""
        async with self.redis() as redis:
            await self.sql(*(f"DELETE FROM {table}" for table in ("relocations", "update_history", "contents")))
            await redis.flushall()
        await self.taken_over()
        for level in self.level_root.iterdir():
            for file in level.glob("*.mp4"):
                file.unlink()
        self.files.clear()
        self.counts.clear()

    async def fingerprint(self) -> bytes | None:
        """Of the level table that all contents were last held against; None in a Redis that was emptied."""
        async with self.redis() as redis:
            partitions, levels = await redis.hmget(META, "partitions", "levels")
        return levels if partitions else None

    async def taken_over(self, before: bytes | None = None) -> None:
        """Returns when an emptied Redis, or a level table that has another fingerprint than before, is known to all."""

        async def is_new() -> bool:
            return await self.fingerprint() not in {None, before}

        await until(is_new, "the planner has put up for review what a new level table, or an empty Redis, asks for")

    async def unready(self) -> bool:
        """True when every service that runs says that it is not ready."""
        async with aiohttp.ClientSession() as session:
            return not any([await is_ready(session, service) for service in self.running])

    @property
    def running(self) -> list[Service]:
        return [service for service in self.stack.services if service.process.poll() is None]

    async def waiting(self, key: str, number: int) -> bool:
        """True when that many entries are on a stream, or in `later`."""
        async with self.redis() as redis:
            size = redis.zcard if key == "later" else redis.xlen
            sizes: list[int] = [await size(keys.prefix + key) for keys in PARTITION_KEYS]
        return sum(sizes) == number

    async def sql(self, *statements: str) -> list[Any]:
        """Run statements as an operator would; the rows of the last."""
        return await query(self.mysql_url, *statements)

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Any]:
        """Redis, as an operator has it."""
        client = redis_at(self.redis_url)
        try:
            yield client
        finally:
            await client.aclose()


def keys_of(cid: str) -> PartitionKeys:
    return PARTITION_KEYS[partition_of(cid, PARTITIONS)]


async def query(mysql_url: str, *statements: str) -> list[Any]:
    """Each statement a transaction; the rows of the last."""
    connection = await asyncmy.connect(autocommit=True, **parse_mysql_url(mysql_url).connect_arguments())
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            return list(await cursor.fetchall())
    finally:
        connection.close()


async def until(holds: Callable[[], Awaitable[object]], what: str, timeout_s: float = 20) -> None:
    """Returns when it holds."""
    deadline = time.monotonic() + timeout_s
    while not await holds():
        assert time.monotonic() < deadline, f"after {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


def cpu_s(service: Service) -> float:
    """What the process has used of a core so far."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
