"""Consumers as a service has them, and the log that they write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from structlog.testing import LogCapture

from shared.consume import Consumer, Terms
from shared.keys import StreamName
from shared.log import Log
from shared.redis_client import connect
from shared.state.scripts import Scripts


class Lines:
    """A log, and what was written to it."""

    def __init__(self) -> None:
        capture = LogCapture()
        self.entries: list[Any] = capture.entries
        wrapper = structlog.make_filtering_bound_logger(logging.DEBUG)
        self.log: Log = structlog.wrap_logger(
            None,
            processors=[structlog.processors.add_log_level, capture],
            wrapper_class=wrapper,
            cache_logger_on_first_use=True,
        )

    def named(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["event"] == event]


@asynccontextmanager
async def consuming(
    scripts: Scripts,
    reader_url: str,
    streams: Sequence[StreamName] = ("moves",),
    *,
    lease_ms: int = 30_000,
    max_attempts: int = 5,
    stop: asyncio.Event | None = None,
    lines: Lines | None = None,
) -> AsyncIterator[Consumer]:
    """A consumer with a connection of its own for its reads."""
    reader = connect(reader_url, timeout_s=30, connections=2 * len(scripts.partitions))
    try:
        yield Consumer(
            scripts,
            reader,
            streams,
            terms=Terms(lease_ms, max_attempts),
            log=(lines or Lines()).log,
            stop=stop or asyncio.Event(),
        )
    finally:
        await reader.aclose()


async def kill(task: asyncio.Task[None]) -> None:
    """Cancel until it is over: Python 3.11's wait_for, in the Redis client, now and then swallows a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.05)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 15) -> None:
    """Returns when the condition holds; fails when it does not for long."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110  # what it waits for is in another process
            await asyncio.sleep(0.01)
