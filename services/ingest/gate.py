"""Whether views may come in just now, and what time it is for Redis."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.ingest.problems import UnavailableError
from shared import metrics
from shared.log import Log
from shared.patience import pause
from shared.redis_client import is_down, servers
from shared.state.contents import Contents

_POLL_S = 0.5
_BACKLOG_RETRY_AFTER_S = 5


class Gate:
    """Asks Redis twice a second. Closed until Redis has answered once."""

    def __init__(self, redis: Redis, contents: Contents, backlog_limit: int, log: Log) -> None:
        """`backlog_limit`: entries on the views streams from which on views are refused."""
        self._redis = redis
        self._contents = contents
        self._backlog_limit = backlog_limit
        self._log = log
        self._backlog = 0
        self._open = False
        self._ahead_ms = 0.0

    def check(self) -> None:
        """Raises UnavailableError where views must not come in."""
        if not self._open:
            raise UnavailableError("Redis does not answer: nothing was taken in, repeat later")
        if self._backlog >= self._backlog_limit:
            raise UnavailableError(
                f"{self._backlog} entries wait to be counted: nothing was taken in, repeat later",
                retry_after_s=_BACKLOG_RETRY_AFTER_S,
            )

    def shut(self) -> None:
        """Redis failed to answer for a whole deadline: refuse at once until it answers again."""
        if self._open:
            self._log.warning("redis does not answer")
        self._open = False

    def redis_ms(self, moment: float) -> int:
        """Redis' clock at a moment of the event loop's clock; rather too early than too late."""
        return int(moment * 1000 + self._ahead_ms)

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped."""
        while not stop.is_set():
            await self.look()
            await pause(stop, _POLL_S)

    async def look(self) -> None:
        """Ask once; an outage leaves everything as it is."""
        try:
            # On a cluster the clock that is the most behind: its own deadline is the last.
            self._ahead_ms = min([await _ahead_ms(server) for server in await servers(self._redis)])
            self._backlog = (await self._contents.backlog())["views"]
        except RedisError as error:
            if not is_down(error):
                self._log.exception("cannot ask redis")
            return
        if not self._open:
            self._log.info("taking views in")
        self._open = True
        metrics.LAST_SUCCESS.labels("gate").set_to_current_time()


async def _ahead_ms(server: Redis) -> float:
    """How far a server's clock is ahead of the event loop's; rather too little than too much."""
    seconds, microseconds = await server.time()
    # From the moment of the reply: the clock was read a little before, so what we work out is never too late.
    return seconds * 1000 + microseconds / 1000 - asyncio.get_running_loop().time() * 1000
