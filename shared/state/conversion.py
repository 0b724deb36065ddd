"""An update's work in Redis: counts in the contents' own hashes (schema 1) go to where the tally counts now."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import ResponseError

from shared.keys import GROUPS, META, SCHEMA
from shared.state.scripts import Scripts

_BEFORE = b"1"
_PAGE = 500
_AT_WORK_MS = 5000
"""A planner asks for views at least once a second."""


class Conversion:
    """Safe to die in and to repeat, by any number of planners at a time: each content is moved by a script at once."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts
        self._redis: Any = scripts.redis

    async def is_due(self) -> bool:
        """Whether Redis was last used by a version that keeps counts elsewhere."""
        return bool(await self._redis.hget(META, "schema") == _BEFORE)

    async def is_older_at_work(self) -> bool:
        """Whether a planner counts views now; while the conversion is due, that is one of the older version."""
        for keys in self._scripts.partitions:
            try:
                consumers = await self._redis.xinfo_consumers(keys.stream("views"), GROUPS["views"])
            except ResponseError:  # neither stream nor group was made yet
                continue
            if any(consumer["idle"] < _AT_WORK_MS for consumer in consumers):
                return True
        return False

    async def run(self, stop: asyncio.Event) -> int:
        """Returns how many contents were moved; ends early, and stays due, when stopped."""
        moved = 0
        # Until a pass finds none: a slot that moves to another node meanwhile can hide from a scan.
        while found := await self._pass(stop):
            moved += found
        if not stop.is_set():
            await self._redis.hset(META, "schema", SCHEMA)
        return moved

    async def _pass(self, stop: asyncio.Event) -> int:
        moved = 0
        async for cids in self._scripts.known(_PAGE):
            if stop.is_set():
                return 0
            for partition, members in self._scripts.by_partition(cids).items():
                keys = self._scripts.partitions[partition]
                names = [keys.counts, *(keys.content(cid) for cid in members)]
                moved += await self._scripts.call("convert", names, members)
        return moved
