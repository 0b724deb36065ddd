"""Requests that are under way when ingest stops."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType


class Draining:
    """Counts requests in the block of each, and lets those be answered that had begun when ingest was to stop.

    aiohttp, told to stop, reads no connection any more: of a body that is still on its way it would wait for the rest
    in vain (`RequestHandler.data_received` of 3.14). So it is told once all are through.
    """

    def __init__(self) -> None:
        self.begun = False
        """From then on an answer is its connection's last."""
        self._under_way = 0
        self._one_ended = asyncio.Event()

    def __enter__(self) -> None:
        self._under_way += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._under_way -= 1
        self._one_ended.set()

    async def finish(self, within_s: float) -> None:
        """Returns when no request is under way, or the time is over."""
        self.begun = True
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._under_way:
                    self._one_ended.clear()
                    await self._one_ended.wait()
