"""Reading streams as one consumer of a group, in as few calls as the servers allow: one, or one per slot.

What is read together is handled together, at a call to Redis per partition and step: so entries come from as few
streams as have enough of them, and all streams take turns.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from shared.redis_client import together
from shared.state.scripts import Scripts

Cursors = Mapping[bytes, bytes]
Rows = list[Any]
"""Per stream its name, and its entries as (id, fields)."""


class Reading:
    """`XREADGROUP`. A read that waits is never cancelled: its answer may hold entries, which would be lost to us."""

    def __init__(self, reader: Redis, group: str, consumer: str, partitions: Mapping[bytes, int]) -> None:
        """`partitions`: that of each stream. `reader` serves reads alone; its timeout lies beyond any `block_ms`."""
        self._scripts = Scripts(reader, len(set(partitions.values())))
        self._reader = reader
        self._group = group
        self._consumer = consumer
        groups = together(reader, sorted(set(partitions.values())))
        number_of = {partition: number for number, group in enumerate(groups) for partition in group}
        self._call_of = {stream: number_of[partition] for stream, partition in partitions.items()}
        self._one_call = len(groups) == 1
        self._turns = deque(partitions)
        self._is_quiet = False
        self._is_backlog = False
        self._waiting: dict[int, asyncio.Task[Rows]] = {}

    async def own(self, cursors: Cursors, count: int) -> Rows:
        """What was delivered before, per stream from its cursor on. Nothing is on its way when it returns."""
        await self.end()
        return await self._all(cursors, count, None)

    async def take(self, limit: int, block_ms: int | None) -> Rows:
        """New entries, at most `limit`; with `block_ms` empty streams are waited on until an entry comes.

        After such a wait there may be a few more than `limit`: one of each stream.
        """
        if limit <= 0:
            return []
        found = [] if self._is_quiet and block_ms is not None else await self._there(limit)
        if not found and block_ms is not None:
            found = await self._awaited(max(1, limit // len(self._turns)), block_ms)
            self._is_quiet = not found
        return found

    async def _there(self, limit: int) -> Rows:
        """What can be read at once; the stream that is next in turn comes first."""
        found: Rows = []
        if self._is_backlog:
            # By itself, outside of a script, an entry costs Redis half as much.
            found = await self._one({self._turns[0]: b">"}, limit, None)
        room = limit - sum(len(rows) for _, rows in found)
        if 2 * room > limit:
            found += await self._of_each(room)
            room = limit - sum(len(rows) for _, rows in found)
        self._is_backlog = 2 * room <= limit
        if found:
            # The last one may have more, and has had its turn.
            self._turns.rotate(-1 - self._turns.index(found[-1][0]))
        return found

    async def _of_each(self, limit: int) -> Rows:
        """From one stream after the other, until there are `limit` entries."""
        found: Rows = []
        room = limit
        for asked in self._split(dict.fromkeys(self._turns, b">")).values():
            names = [stream.decode() for stream in asked]
            for stream, rows in await self._scripts.call("read", names, [self._group, self._consumer, room]):
                found.append((stream, [(entry_id, _fields(flat)) for entry_id, flat in rows]))
                room -= len(rows)
            if room <= 0:
                break
        return found

    async def _awaited(self, count: int, block_ms: int) -> Rows:
        """At most `count` entries of each stream, when there are any."""
        cursors = dict.fromkeys(self._turns, b">")
        if self._one_call:
            return await self._all(cursors, count, block_ms)
        return await self._all(cursors, count, None) or await self._first(cursors, count, block_ms)

    def arrived(self) -> Rows:
        """What came after an earlier wait had ended with another stream's entries. Raises that read's error."""
        done = [call for call, task in self._waiting.items() if task.done()]
        return [row for call in done for row in self._waiting.pop(call).result()]

    async def end(self) -> Rows:
        """Returns when no read is under way: what they brought. Where one failed, what it brought is known to `own`."""
        answers = await asyncio.gather(*self._waiting.values(), return_exceptions=True)
        self._waiting.clear()
        return [row for rows in answers if not isinstance(rows, BaseException) for row in rows]

    async def _all(self, cursors: Cursors, count: int, block_ms: int | None) -> Rows:
        answers = await asyncio.gather(*(self._one(call, count, block_ms) for call in self._split(cursors).values()))
        return [row for rows in answers for row in rows]

    async def _first(self, cursors: Cursors, count: int, block_ms: int) -> Rows:
        for number, call in self._split(cursors).items():
            if number not in self._waiting:
                self._waiting[number] = asyncio.create_task(self._one(call, count, block_ms))
        found: Rows = []
        while self._waiting and not found:
            await asyncio.wait(self._waiting.values(), return_when=asyncio.FIRST_COMPLETED)
            found = self.arrived()
        return found

    def _split(self, cursors: Cursors) -> Mapping[int, Cursors]:
        """The calls that it takes, by number; within each the streams in their order, which is that of the answer."""
        calls: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        for stream, cursor in cursors.items():
            calls[self._call_of[stream]][stream] = cursor
        return calls

    async def _one(self, cursors: Cursors, count: int, block_ms: int | None) -> Rows:
        reader: Any = self._reader
        return list(await reader.xreadgroup(self._group, self._consumer, cursors, count=count, block=block_ms) or [])


def _fields(flat: Sequence[bytes]) -> dict[bytes, bytes] | None:
    """None for an entry that somebody deleted while it was pending."""
    return dict(zip(flat[0::2], flat[1::2], strict=True)) if flat else None
