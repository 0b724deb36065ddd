"""Taking over what other consumers left: entries gone stale, and those that may kill whoever reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from shared import metrics
from shared.keys import StreamName
from shared.log import Log
from shared.state.joining import Argument
from shared.state.moves import RawEntry
from shared.state.scripts import Scripts
from shared.sweep import Sweep

CONSUMERS_DIED = "consumers died"
"""The reason of dead letters that were handed out to the limit."""
_CRASHES_PER_ATTEMPT = 2
_RECLAIM_S = 1.0
"""The longest time between two looks for stale entries: what a mover hands back when it stops is not late."""

Slot = tuple[StreamName, int]
"""A stream of a partition."""
EntryKey = tuple[StreamName, int, bytes]
"""A slot and an entry id."""


class Reclaiming:
    """One consumer's share in its group's leases; any number may do it at once."""

    def __init__(
        self,
        scripts: Scripts,
        slots: Mapping[bytes, Slot],
        group: str,
        consumer: str,
        *,
        lease_ms: int,
        max_attempts: int,
        held: Mapping[EntryKey, RawEntry],
        log: Log,
    ) -> None:
        """`slots` by their streams' keys; `held` is what the consumer has in hand, at every moment."""
        self.due_at = 0.0
        self._scripts = scripts
        self._slots = slots
        self._group = group
        self._consumer = consumer
        self._lease_ms = lease_ms
        self._max_attempts = max_attempts
        self._held = held
        self._log = log
        self._sweep = Sweep(scripts, list(slots), group, consumer, lease_ms=lease_ms, log=log)
        self._cursors: dict[bytes, bytes] = dict.fromkeys(slots, b"-")

    async def stale(self, limit: int) -> list[RawEntry]:
        """About `limit` entries that are the consumer's from now on; [] before `due_at`. Raises redis.RedisError."""
        now = asyncio.get_running_loop().time()
        if now < self.due_at:
            return []
        self.due_at = now + min(self._lease_ms / 4000, _RECLAIM_S)
        await self._sweep.run(now)
        slots = list(self._slots)
        share = max(1, limit // len(slots))
        replies = await asyncio.gather(*(self._reclaim(stream, share) for stream in slots))
        found: list[RawEntry] = []
        for stream, (cursor, _, *rows) in zip(slots, replies, strict=True):
            self._cursors[stream] = cursor
            found += self._taken(stream, rows)
        if not found:
            found = await self._suspect([stream for stream, reply in zip(slots, replies, strict=True) if reply[1]])
        if found:
            self.due_at = now  # more may wait behind the cursor
        return found

    async def _reclaim(self, stream: bytes, limit: int) -> list[Any]:
        terms: list[Argument] = [self._lease_ms, self._cursors[stream], limit, self._max_attempts]
        return list(await self._scripts.join("reclaim", [stream.decode()], [self._group, self._consumer, *terms]))

    def _taken(self, stream: bytes, rows: Sequence[Any]) -> list[RawEntry]:
        name, partition = self._slots[stream]
        found = [
            RawEntry(name, partition, entry_id, dict(zip(flat[0::2], flat[1::2], strict=True)), deliveries)
            for entry_id, deliveries, flat in rows
        ]
        # Our own, whose lease ran out in an outage, are being worked on: nobody else has taken them.
        taken = [entry for entry in found if (name, partition, entry.entry_id) not in self._held]
        if taken:
            metrics.RECLAIMED.labels(name).inc(len(taken))
            self._log.info("reclaimed", stream=name, partition=partition, entries=len(taken))
        return taken

    async def _suspect(self, streams: Sequence[bytes]) -> list[RawEntry]:
        """One entry that was handed out again and again without ever being handled; it may kill its consumers.

        One at a time: what was read together with a killer must not reach the limit with it.
        """
        for stream in streams:
            name, partition = self._slots[stream]
            held = [entry for entry in self._held.values() if entry.deliveries > self._max_attempts]
            # Views wait for older ones of their partition: one that ours wait for must come, or neither ever would.
            mine = [entry.entry_id for entry in held if (entry.stream, entry.partition) == (name, partition)]
            if len(mine) < len(held):
                continue
            reply = await self._call_suspect(stream, b"(" + min(mine, key=_order) if mine else b"+")
            if len(reply) == len(("id", "deliveries")):
                metrics.DEAD_LETTERED.labels(name, CONSUMERS_DIED).inc()
                self._log.error("buried", stream=name, reason=CONSUMERS_DIED, entry_id=reply[0].decode())
            elif reply and (taken := self._taken(stream, [reply])):
                return taken
        return []

    async def _call_suspect(self, stream: bytes, end: bytes) -> list[Any]:
        name, partition = self._slots[stream]
        limit = self._max_attempts * _CRASHES_PER_ATTEMPT
        detail = f"handed out {limit} times and never handled: look at the logs of its consumers"
        terms: list[Argument] = [self._lease_ms, self._max_attempts, limit]
        letter: list[Argument] = [name, CONSUMERS_DIED, detail]
        keys = [stream.decode(), self._scripts.partitions[partition].dead]
        return list(await self._scripts.call("suspect", keys, [self._group, self._consumer, *terms, end, *letter]))


def _order(entry_id: bytes) -> tuple[int, int]:
    """An entry id as numbers: ms since the epoch, sequence."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence)
