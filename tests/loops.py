"""A service's loops in this process, wired as the service wires them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from shared.catalog import Connections
from shared.redis_client import connect
from shared.service import Runtime
from shared.settings import Settings
from shared.state.scripts import Scripts
from tests.consumers import Lines

S = TypeVar("S", bound=Settings)


@asynccontextmanager
async def at_work(
    work: Callable[[Runtime[S]], Awaitable[None]], settings: S, *, name: str = "tested"
) -> AsyncIterator[tuple[Runtime[S], Lines]]:
    """The service runs while the block does; then it is stopped, and must end soon and well."""
    lines = Lines()
    redis = connect(settings.redis_url.get_secret_value())
    connections = Connections(settings.mysql_url.get_secret_value())
    runtime = Runtime(name, settings, lines.log, redis, Scripts(redis, settings.partitions), connections)
    running = asyncio.create_task(_run(work, runtime))
    try:
        yield runtime, lines
    finally:
        runtime.stop.set()
        try:
            async with asyncio.timeout(15):
                await running
        finally:
            await redis.aclose()
            await connections.close()


async def _run(work: Callable[[Runtime[S]], Awaitable[None]], runtime: Runtime[S]) -> None:
    await work(runtime)
