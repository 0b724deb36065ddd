"""Which movers let which level's work wait: for people to see, and for movers that are about to give up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from shared.keys import BREAKERS

_KEEP_MS = 300_000


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """`until_ms`: when it stops counting as open, unless its mover says so again."""

    worker: str
    level: str
    until_ms: int


class OpenBreakers:
    """What all movers have published; the word of one that died runs out by itself."""

    def __init__(self, redis: Redis) -> None:
        """Reads and writes one hash."""
        self._redis: Any = redis
        self._published: set[str] = set()

    async def publish(self, worker: str, open_until_ms: Mapping[str, int]) -> None:
        """The worker's open breakers by level, in place of those that it published before."""
        fields = {f"{worker}/{level}": until for level, until in open_until_ms.items()}
        closed = self._published - set(fields)
        if not fields and not closed:
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            if fields:
                pipe.hset(BREAKERS, mapping=fields)
            if closed:
                pipe.hdel(BREAKERS, *closed)
            pipe.pexpire(BREAKERS, _KEEP_MS)
            await pipe.execute()
        self._published = set(fields)

    async def read(self) -> list[OpenBreaker]:
        """Those that count as open now, by level and worker."""
        now_ms = time.time_ns() // 1_000_000
        found = []
        for field, until in (await self._redis.hgetall(BREAKERS)).items():
            worker, _, level = field.decode().partition("/")
            if until.isdigit() and int(until) > now_ms:
                found.append(OpenBreaker(worker, level, int(until)))
        return sorted(found, key=lambda one: (one.level, one.worker))
