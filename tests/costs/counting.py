"""Counting what a server was asked to do: counts hold on any machine, seconds do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

_OURS = {"info", "evalsha", "eval"}


@asynccontextmanager
async def commands(redis: Redis) -> AsyncIterator[Counter[str]]:
    """Redis commands by name that ran within the block, those inside scripts too; filled when the block ends.

    Calls of scripts are told apart as `script calls`.
    """
    before = await _calls(redis)
    counted: Counter[str] = Counter()
    yield counted
    spent = await _calls(redis) - before
    counted.update({name: number for name, number in spent.items() if name not in _OURS})
    counted["script calls"] = spent["evalsha"]


async def _calls(redis: Redis) -> Counter[str]:
    stats = await redis.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in stats.items()})
