"""Reading streams as one consumer of a group, in as few calls as the servers allow: one, or one per slot.

What is read together is handled together, at a call to Redis per partition: where there is a backlog, entries come
from one stream at a time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from shared.redis_client import together

Cursors = Mapping[bytes, bytes]
Rows = list[Any]
"""Per stream its name, and its entries as (id, fields)."""

_OTHERS_S = 0.02
"""So long at most a stream with few entries waits for those with many."""


class Reading:
    """`XREADGROUP`. A read that waits is never cancelled: its answer may hold entries, which would be lost to us."""

    def __init__(self, reader: Redis, group: str, consumer: str, partitions: Mapping[bytes, int]) -> None:
        """`partitions`: that of each stream. `reader` serves reads alone; its timeout lies beyond any `block_ms`."""
        self._reader = reader
        self._group = group
        self._consumer = consumer
        groups = together(reader, sorted(set(partitions.values())))
        number_of = {partition: number for number, group in enumerate(groups) for partition in group}
        self._call_of = {stream: number_of[partition] for stream, partition in partitions.items()}
        self._one_call = len(groups) == 1
        self._turns = deque(partitions)
        self._full: deque[bytes] = deque()
        self._others_read_at = 0.0
        self._waiting: dict[int, asyncio.Task[Rows]] = {}

    async def own(self, cursors: Cursors, count: int) -> Rows:
        """What was delivered before, per stream from its cursor on. Nothing is on its way when it returns."""
        await self.end()
        return await self._all(cursors, count, None)

    async def take(self, limit: int, block_ms: int | None) -> Rows:
        """New entries, at most `limit`; with `block_ms` empty streams are waited on until an entry comes.

        A stream that gave as much as was asked for is full: the next entries are of that one alone. All full ones take
        turns, and between them the others are looked at.
        """
        if limit <= 0:
            return []
        is_due = asyncio.get_running_loop().time() - self._others_read_at >= _OTHERS_S
        if self._full and is_due and (found := await self._of_others(limit, None)):
            return found
        return await self._of_full(limit) or await self._of_others(limit, block_ms)

    async def _of_full(self, limit: int) -> Rows:
        while self._full:
            stream = self._full.popleft()
            found = await self._new([stream], limit, None)
            if found:
                return found
        return []

    async def _of_others(self, limit: int, block_ms: int | None) -> Rows:
        others = [stream for stream in self._turns if stream not in self._full]
        self._others_read_at = asyncio.get_running_loop().time()
        if limit < len(others):
            found = await self._in_turn(others, limit)
            if found or block_ms is None:
                return found
        if not others:
            return []
        # All were empty just now: that several fill at the same moment is rare, and one entry of each is bearable.
        return await self._new(others, max(1, limit // len(others)), block_ms)

    async def _new(self, streams: Collection[bytes], count: int, block_ms: int | None) -> Rows:
        """At most `count` entries of each."""
        cursors = dict.fromkeys(streams, b">")
        if block_ms is None or self._one_call:
            found = await self._all(cursors, count, block_ms)
        else:
            found = await self._all(cursors, count, None) or await self._first(cursors, count, block_ms)
        if count > 1:  # a single entry says nothing of more
            self._full += [stream for stream, rows in found if len(rows) == count and stream not in self._full]
        return found

    async def _in_turn(self, others: Sequence[bytes], limit: int) -> Rows:
        """Fewer entries than there are streams: ask some streams for one each, others first the next time."""
        found: Rows = []
        unasked = deque(others)
        while unasked and len(found) < limit:
            asked = [unasked.popleft() for _ in range(min(limit - len(found), len(unasked)))]
            for stream in asked:
                self._turns.remove(stream)
                self._turns.append(stream)
            found += await self._new(asked, 1, None)
        return found

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
