"""Systems that are staged once and measured again and again, by turns, each time with fresh services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.system import Servers, System
from cli.servers import PrivateRedis

T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """So many partitions, and contents that are tracked beside those that are viewed or relocated."""

    contents: int = 0
    partitions: int = 8


@dataclass
class Stages:
    """A million contents take half a minute to put in place, more than what is measured on them.

    So each size keeps a Redis and a database of its own until the end; they share one MySQL server.
    """

    servers: Servers
    fill: Callable[[System, int], Coroutine[Any, Any, None]]
    settings: Mapping[str, str]
    runner: asyncio.Runner
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    staged: dict[Size, System] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def kept(
        cls,
        servers: Servers,
        fill: Callable[[System, int], Coroutine[Any, Any, None]],
        settings: Mapping[str, str] | None = None,
    ) -> Iterator[Stages]:
        """`fill` puts so many contents in place; the services run with `settings`."""
        with asyncio.Runner() as runner:
            stages = cls(servers, fill, settings or {}, runner)
            try:
                yield stages
            finally:
                runner.run(stages.stack.aclose())

    def run(self, size: Size, work: Callable[[System], Coroutine[Any, Any, T]]) -> T:
        """What `work` finds; the services that it starts end with it."""
        return self.runner.run(self._run(size, work))

    async def _run(self, size: Size, work: Callable[[System], Coroutine[Any, Any, T]]) -> T:
        system = self.staged.get(size)
        if system is None:
            system = self.staged[size] = await self._stage(size)
        try:
            return await work(system)
        finally:
            system.stop()

    async def _stage(self, size: Size) -> System:
        work = self.servers.work / f"stage-{size.contents}-{size.partitions}"
        redis = self.stack.enter_context(PrivateRedis.start(work / "redis"))
        own = Servers(redis, self.servers.mysql, work)
        paths = [work / "bronze", work / "silver"]
        fresh = System.fresh(own, paths, partitions=size.partitions, settings=self.settings)
        system = await self.stack.enter_async_context(fresh)
        await system.start_planner()
        system.stop()
        await self.fill(system, size.contents)
        return system
