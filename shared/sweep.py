"""Once a lease: entries that are in nobody's hands though they were delivered, and names that nobody uses any more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from shared.log import Log
from shared.state.joining import Argument
from shared.state.scripts import Scripts

_PAGE = 100
_DEAD_LEASES = 10


class Sweep:
    """One consumer's share in keeping its group clean; any number may do it at once."""

    def __init__(
        self, scripts: Scripts, streams: Sequence[bytes], group: str, consumer: str, *, lease_ms: int, log: Log
    ) -> None:
        """Orphans are laid into `consumer`'s hands as stale, so that its next reclaiming, or another's, takes them."""
        self._scripts = scripts
        self._streams = [stream.decode() for stream in streams]
        self._group = group
        self._consumer = consumer
        self._lease_ms = lease_ms
        self._log = log
        self._next = 0.0

    async def run(self, now: float) -> None:
        """Sweep, if a lease has passed since the last time. Safe to repeat. Raises redis.RedisError."""
        if now < self._next:
            return
        found = sum(await asyncio.gather(*(self._adopt(stream) for stream in self._streams)))
        if found:
            self._log.warning("found in nobody's hands", group=self._group, entries=found)
        await asyncio.gather(*(self._remove_dead(stream) for stream in self._streams))
        # Not all consumers at the same moment.
        self._next = now + self._lease_ms / 1000 * random.uniform(0.75, 1)  # noqa: S311  # spreads, keeps no secret

    async def _adopt(self, stream: str) -> int:
        found, at = 0, "-"
        while at:
            arguments: list[Argument] = [self._group, self._consumer, self._lease_ms, at, _PAGE]
            more, after = await self._scripts.join("adopt", [stream], arguments)
            found, at = found + more, after.decode()
        return found

    async def _remove_dead(self, stream: str) -> None:
        """Consumers that have long given no sign of life and hold nothing; the script looks again."""
        redis: Any = self._scripts.redis
        for row in await redis.xinfo_consumers(stream, self._group):
            name = row["name"].decode(errors="surrogateescape")
            if name != self._consumer and row["pending"] == 0 and row["idle"] > self._lease_ms * _DEAD_LEASES:
                await self._scripts.call("leave", [stream], [self._group, row["name"]])
                self._log.info("removed a dead consumer", stream=stream, consumer=name)
