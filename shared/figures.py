"""Figures that cost something to work out: one replica does it now and then, all of them show the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from redis.asyncio import Redis

from shared.keys import FIGURES, WORKING_OUT

_LEASE_MS = 30_000
_RENEW_S = _LEASE_MS / 3000
_SHARE = 100
"""Whoever worked a figure out leaves it alone for so many times as long as it took: at most a hundredth of all time."""


class Figures:
    """Numbers by name, kept in Redis."""

    def __init__(self, redis: Redis, period_s: float) -> None:
        """A figure is worked out anew after `period_s` at the earliest."""
        self._redis: Any = redis
        self._period_ms = round(period_s * 1000)

    async def read(self, name: str) -> dict[str, int]:
        """The figure as last worked out by anybody; empty before the first time."""
        found = await self._redis.hget(FIGURES, name)
        return orjson.loads(found) if found else {}

    async def work_out(self, name: str, work: Callable[[], Awaitable[dict[str, int] | None]]) -> bool:
        """Do the work, if its time has come and nobody else is at it; None keeps the figure as it is.

        True when it was done. One who dies over it leaves it to the others after 30 s.
        """
        lock = WORKING_OUT + name
        if not await self._redis.set(lock, "1", nx=True, px=_LEASE_MS):
            return False
        began = time.monotonic()
        task = asyncio.ensure_future(work())
        try:
            while not (await asyncio.wait((task,), timeout=_RENEW_S))[0]:
                await self._redis.pexpire(lock, _LEASE_MS)
            figure = task.result()
        finally:
            task.cancel()
        if figure is not None:
            await self._redis.hset(FIGURES, name, orjson.dumps(figure))
        took_ms = (time.monotonic() - began) * 1000
        await self._redis.set(lock, "1", px=max(self._period_ms, round(_SHARE * took_ms)))
        return figure is not None
