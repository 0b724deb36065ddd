"""How many contents each level holds."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from shared import metrics
from shared.catalog import Catalog
from shared.figures import Figures
from shared.log import Log
from shared.patience import patiently, pause

PERIOD_S = 60.0
_SHOW_S = 5.0
_NAME = "contents"


class Census:
    """Shown by every recorder, taken by one: MySQL goes through the index on `content_level` then, from end to end.

    That is 0.4 s for a million contents (MariaDB 10.11, two shared cores). It is done once a minute, or less often
    where it takes longer than 0.6 s, so that at most a hundredth of one MySQL thread's time goes into it. Levels that
    are gone, are no longer shown.
    """

    def __init__(self, catalog: Catalog, redis: Redis, log: Log, period_s: float = PERIOD_S) -> None:
        """`redis` keeps the last census."""
        self._catalog = catalog
        self._figures = Figures(redis, period_s)
        self._log = log
        self._shown: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped."""
        while not stop.is_set():
            await patiently(self._look, stop, self._log, "count contents")
            metrics.LAST_SUCCESS.labels("census").set_to_current_time()
            await pause(stop, _SHOW_S)

    async def _look(self) -> None:
        await self._figures.work_out(_NAME, self._catalog.count_by_level)
        self.show(await self._figures.read(_NAME))

    def show(self, contents: dict[str, int]) -> None:
        """Into the metrics."""
        for level in self._shown - set(contents):
            metrics.LEVEL_CONTENTS.remove(level)
        for level, number in contents.items():
            metrics.LEVEL_CONTENTS.labels(level).set(number)
        if self._shown != set(contents):
            metrics.start_pairs(contents, metrics.RELOCATIONS_COMMITTED)
        self._shown = set(contents)
