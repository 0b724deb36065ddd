"""The level table as the planner sees it, and what a change of it sets off."""

from __future__ import annotations

import asyncio
from hashlib import blake2b

from redis.asyncio import Redis

from shared import metrics
from shared.catalog import Catalog
from shared.errors import InvalidError
from shared.keys import META
from shared.levels import Levels
from shared.log import Log
from shared.patience import patiently, pause
from shared.state.contents import Contents

_POLL_S = 1.0
_PAGE = 1000
_SWEEPING = "reshelve:sweeping"
_SWEEP_LEASE_MS = 30_000


def fingerprint(levels: Levels) -> str:
    """Differs when any range, name or path differs."""
    text = repr([(level.content_level, level.min_counts, level.max_counts, level.path) for level in levels])
    return blake2b(text.encode(), digest_size=16).hexdigest()


class LevelTable:
    """Reads the table every second. When it is not the one all contents were last held against, all are reviewed."""

    def __init__(self, catalog: Catalog, contents: Contents, redis: Redis, log: Log) -> None:
        """`redis` keeps the fingerprint of the table that all contents were last held against."""
        self._catalog = catalog
        self._contents = contents
        self._redis = redis
        self._log = log
        self._levels: Levels | None = None

    def current(self) -> Levels:
        """The table as last read; `load` must have succeeded once."""
        assert self._levels is not None
        return self._levels

    @property
    def loaded(self) -> bool:
        """True once a sound table was read."""
        return self._levels is not None

    async def load(self) -> None:
        """Read the table; an unsound one is left aside for the last sound one."""
        try:
            self._levels = await self._catalog.levels()
        except InvalidError as error:
            self._log.error("level table unsound", error=str(error))

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped."""
        while not stop.is_set():
            await patiently(self._check, stop, self._log, "read the level table")
            metrics.LAST_SUCCESS.labels("levels").set_to_current_time()
            await pause(stop, _POLL_S)

    async def _check(self) -> None:
        await self.load()
        if self._levels is None:
            return
        metrics.start_pairs((level.content_level for level in self._levels), metrics.MOVES_OPENED)
        wanted = fingerprint(self._levels)
        if await self._redis.hget(META, "levels") == wanted.encode():
            return
        # One planner sweeps; should it die, the lock runs out and another begins anew.
        if await self._redis.set(_SWEEPING, "1", nx=True, px=_SWEEP_LEASE_MS):
            reviews = await self._sweep()
            await self._redis.hset(META, "levels", wanted)
            await self._redis.delete(_SWEEPING)
            self._log.info("level table taken over", reviews=reviews)

    async def _sweep(self) -> int:
        """Put up for review what Redis knows, and what was ever relocated: the rest is on the level it was put on."""
        touched, after = 0, ""
        while page := await self._catalog.page(after, _PAGE):
            touched += await self._contents.touch((cid for cid, relocated in page if not relocated), "known")
            touched += await self._contents.touch((cid for cid, relocated in page if relocated), "all")
            await self._redis.pexpire(_SWEEPING, _SWEEP_LEASE_MS)
            after = page[-1][0]
        return touched
