"""A system whose movers come and go: bronze and gold on one filesystem (link), silver on another (copy)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shared.catalog import Connections, Registry
from shared.keys import META
from tests.faults.house import House
from tests.oracle import Oracle, World
from tests.stack import Service

COUNTS = {"bronze": 1, "silver": 1500, "gold": 2500}
"""A count that belongs on the level."""
_BYTES = 3 << 19
"""More than one chunk of a copy."""


@dataclass
class Floor(House):
    """Ingest, planner and recorder run all the time; a test starts the movers."""

    paths: dict[str, Path] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    begun: int = 0

    async def content(self, filename: str = "", *, cid: str = "", size: int = _BYTES) -> str:
        """A new content on bronze; returns its cid."""
        self.begun += 1
        cid = cid or f"f{self.begun}"
        self.names[cid] = filename or f"{cid}/film.mp4"
        self.files[cid] = os.urandom(size)
        source = self.file("bronze", cid)
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(self.files[cid])
        connections = Connections(self.mysql_url)
        try:
            assert await Registry(connections).register_many([(cid, self.names[cid])], "bronze") == []
        finally:
            await connections.close()
        return cid

    def file(self, level: str, cid: str) -> Path:
        return self.paths[level] / self.names[cid]

    def parts(self) -> list[Path]:
        return [part for path in self.paths.values() for part in path.rglob(".reshelve.0*")]

    async def send(self, cid: str, level: str) -> None:
        """Let the count ask for the level."""
        body = [{"cid": cid, "count": COUNTS[level]}]
        assert await self.post(body, {}) == 202
        self.counts[cid] = COUNTS[level]

    async def mover(
        self, through: Sequence[str] = (), *, lease_ms: int = 1000, settings: Mapping[str, str] | None = None
    ) -> Service:
        """A mover that is ready."""
        mover = self.victim(through, lease_ms=lease_ms, settings=settings)
        await self.stack.ready(services=[mover])
        return mover

    def victim(
        self, through: Sequence[str] = (), *, lease_ms: int = 1000, settings: Mapping[str, str] | None = None
    ) -> Service:
        """A mover that its fault may end before anybody could see that it is ready."""
        given = {"RESHELVE_LEASE_MS": str(lease_ms), **(settings or {})}
        (mover,) = self.stack.start("mover", through=through, settings=given)
        return mover

    def end_movers(self) -> None:
        for mover in self.stack.named("mover"):
            mover.kill()

    async def forget(self) -> None:
        """Nothing of a test is left for the next."""
        self.end_movers()
        await self.sql(*(f"DELETE FROM {table}" for table in ("relocations", "update_history", "contents")))
        async with self.redis() as redis:
            for pattern in ("content:*", "counts", "dead", "later", "review"):
                async for key in redis.scan_iter(match=f"reshelve:*:{pattern}", count=1000):
                    await redis.delete(key)
        for path in self.paths.values():
            for file in sorted(path.rglob("*"), reverse=True):
                if file.name != ".reshelve.level":
                    file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        self.files.clear()
        self.names.clear()
        self.counts.clear()

    async def state(self, cid: str) -> dict[str, str]:
        world = await self.look()
        return world.states.get(cid, {})

    async def look(self) -> World:
        async with self._oracle() as oracle:
            return await oracle.look()

    async def settle(self) -> World:
        """What there is once nothing moves any more, unjudged."""
        async with self._oracle() as oracle:
            return await oracle.settle()

    @asynccontextmanager
    async def _oracle(self) -> AsyncIterator[Oracle]:
        oracle = Oracle(self.redis_url, self.mysql_url)
        try:
            yield oracle
        finally:
            await oracle.close()

    async def set_path(self, level: str, path: Path) -> None:
        """Change the level table; returns when the planner goes by it."""
        async with self.redis() as redis:
            deadline = time.monotonic() + 20
            while not (before := await redis.hget(META, "levels")):
                assert time.monotonic() < deadline, "the planner does not read the level table"
                await asyncio.sleep(0.05)
            await self.sql(f"UPDATE level SET path = '{path}' WHERE content_level = '{level}'")
            while await redis.hget(META, "levels") == before:
                assert time.monotonic() < deadline, "the planner does not see the level's new path"
                await asyncio.sleep(0.05)


async def ended(service: Service, step: str, timeout_s: float = 20) -> None:
    """Returns when somebody has killed it."""
    await until(lambda: service.process.poll() is not None, f"{service.name} survived {step}", timeout_s)
    assert service.process.returncode == -signal.SIGKILL, service.log.read_text()[-3000:]


async def until(holds: Callable[[], object], what: str, timeout_s: float = 20) -> None:
    """Returns when it holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"after {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


def send_signal(service: Service, number: signal.Signals) -> None:
    os.kill(service.process.pid, number)
