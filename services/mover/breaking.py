"""Showing this mover's breakers: as a metric, and in Redis, where `reshelve status` finds them."""

from __future__ import annotations

import asyncio
import time

from redis.exceptions import RedisError

from services.mover.breaker import Breakers
from shared import metrics
from shared.catalog import Catalog
from shared.errors import InvalidError
from shared.log import Log
from shared.patience import is_outage, patiently, pause
from shared.state.breakers import OpenBreakers

_SHOW_S = 0.5
_GOOD_FOR_MS = 5_000


async def show_breakers(
    breakers: Breakers, published: OpenBreakers, worker: str, *, catalog: Catalog, log: Log, stop: asyncio.Event
) -> None:
    """Until stopped. A change is seen within half a second."""
    levels = set(await patiently(lambda: _level_names(catalog), stop, log, "read the levels"))
    before: set[str] = set()
    while not stop.is_set():
        open_until = breakers.open()
        for level in sorted(set(open_until) - before):
            log.warning("breaker opened", level=level, why=breakers.why(level))
        for level in sorted(before - set(open_until)):
            log.info("breaker closed", level=level)
        before = set(open_until)
        levels |= before
        for level in levels:
            metrics.BREAKER_OPEN.labels(level).set(level in open_until)
        await _publish(published, worker, open_until)
        await pause(stop, _SHOW_S)
    await _publish(published, worker, {})


async def _publish(published: OpenBreakers, worker: str, open_until: dict[str, float]) -> None:
    now_ms, now = time.time_ns() // 1_000_000, asyncio.get_running_loop().time()
    # On trial it is not closed yet: its time is over, and our word must outlast the next one.
    until_ms = {level: now_ms + max(round((at - now) * 1000), _GOOD_FOR_MS) for level, at in open_until.items()}
    try:
        await published.publish(worker, until_ms)
    except RedisError as error:
        if not is_outage(error):
            raise


async def _level_names(catalog: Catalog) -> list[str]:
    try:
        return [level.content_level for level in await catalog.levels()]
    except InvalidError:
        return []  # the planner says what is wrong with the table; a level appears with its first trouble
