"""The one consumer loop: take over stale entries, read new ones, keep leases alive, stop by event."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import metrics
from shared.keys import GROUPS, StreamName
from shared.log import Log
from shared.patience import StoppedError, backoff_s, is_outage, pause
from shared.reading import Reading
from shared.redis_client import is_missing_group
from shared.state.contents import Contents
from shared.state.moves import RawEntry
from shared.state.scripts import Argument, Scripts
from shared.sweep import Sweep

CONSUMERS_DIED = "consumers died"
"""The reason of dead letters that were handed out to the limit."""
_BLOCK_MS = 500
"""How long a read waits: a stop is noticed within it, since a blocking read is never cancelled."""
_CRASHES_PER_ATTEMPT = 2
_RECLAIM_S = 1.0
"""The longest time between two looks for stale entries: what a mover hands back when it stops is not late."""
_LEAVE_S = 2.0

_Slot = tuple[StreamName, int]
_EntryKey = tuple[StreamName, int, bytes]


def consumer_name() -> str:
    """A name that no other process has or had: what a dead namesake held must go stale, not be ours."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True)
class Terms:
    """`lease_ms` without a sign of life loses an entry; after `max_attempts` it is given up on."""

    lease_ms: int
    max_attempts: int


class Consumer:
    """One process' reading of some streams, over all partitions, within their consumer group."""

    def __init__(
        self,
        scripts: Scripts,
        reader: Redis,
        streams: Sequence[StreamName],
        *,
        terms: Terms,
        log: Log,
        stop: asyncio.Event,
    ) -> None:
        """`reader` serves nothing but this consumer's blocking reads; its timeout lies beyond `_BLOCK_MS`."""
        self.name = consumer_name()
        self._scripts = scripts
        self._group = GROUPS[streams[0]]
        self._streams = tuple(streams)
        self._terms = terms
        self._log = log
        self._stop = stop
        self._contents = Contents(scripts)
        self._slots: dict[bytes, _Slot] = {
            keys.stream(name).encode(): (name, keys.partition) for keys in scripts.partitions for name in streams
        }
        partitions = {stream: partition for stream, (_, partition) in self._slots.items()}
        self._reading = Reading(reader, self._group, self.name, partitions)
        self._sweep = Sweep(scripts, list(self._slots), self._group, self.name, lease_ms=terms.lease_ms, log=log)
        self._held: dict[_EntryKey, RawEntry] = {}
        self._cursors: dict[bytes, bytes] = dict.fromkeys(self._slots, b"-")
        self._next_reclaim = 0.0
        self._failures = 0
        self._reread = False

    @property
    def held(self) -> int:
        """How many entries are in hand."""
        return len(self._held)

    async def take(self, limit: int, *, wait: bool = True) -> list[RawEntry]:
        """At most `limit` entries (a few more after a quiet time): stale ones first, then new ones; with 0 only stale.

        They stay in hand, their leases renewed, until `release`. With `wait` an empty stream is waited on for a while.
        An outage is waited out here.
        """
        try:
            await self._contents_ready()
            entries = self._entries(self._reading.arrived()) or await self._reclaim(limit)
            if self._reread:
                # What was just taken over is among it.
                entries = await self._read_own(limit)
                self._reread = False
            if not entries:
                entries = await self._read_new(limit, wait=wait)
        except RedisError as error:
            await self._failed(error)
            return []
        if self._failures:
            self._log.info("reading again", failures=self._failures)
            self._failures = 0
        # Only now: a take that broke off half-way has handed out nothing, and all it found is read again.
        self._hold(entries)
        return entries

    def _hold(self, entries: Iterable[RawEntry]) -> None:
        self._held.update(((entry.stream, entry.partition, entry.entry_id), entry) for entry in entries)

    def release(self, entries: Iterable[RawEntry]) -> None:
        """These are handled, or no longer ours."""
        for entry in entries:
            self._held.pop((entry.stream, entry.partition, entry.entry_id), None)

    async def hand_back(self, entries: Sequence[RawEntry]) -> None:
        """These go back untouched: another consumer may take them over at once."""
        # First: from now on nobody is to renew their leases, whatever becomes of the calls.
        self.release(entries)
        for (stream, partition), ids in _by_slot(entries).items():
            key = self._scripts.partitions[partition].stream(stream)
            try:
                await self._scripts.call("hand_back", [key], [self._group, self.name, self._terms.lease_ms, *ids])
            except RedisError as error:
                if not is_missing_group(error):
                    raise
                # Redis was emptied, and the entries with it.

    async def reading(self, loop: Coroutine[Any, Any, None]) -> None:
        """Run the loop that handles what is taken; what it leaves in hand because it gave up waiting goes back."""
        try:
            await loop
        except StoppedError:
            await self._hand_back_held()

    async def _hand_back_held(self) -> None:
        """As far as Redis answers soon: otherwise the leases run out."""
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self.hand_back(list(self._held.values()))

    def holds(self, entry: RawEntry) -> bool:
        """False once the lease on the entry was lost."""
        return (entry.stream, entry.partition, entry.entry_id) in self._held

    async def keep_leases(self) -> None:
        """Renew the leases of what is in hand, three times a lease, until stopped and empty-handed."""
        while not (self._stop.is_set() and not self._held):
            if self._stop.is_set():
                await asyncio.sleep(0.05)
            else:
                await pause(self._stop, self._terms.lease_ms / 3000)
            try:
                await self._renew()
            except RedisError as error:
                if not is_outage(error) and not is_missing_group(error):
                    raise

    async def leave(self) -> None:
        """Hand back what is in hand, and give up the name where nothing is held under it; without Redis, let it be."""
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                self._hold(self._entries(await self._reading.end()))
        await self._hand_back_held()
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                for stream in self._slots:
                    await self._scripts.call("leave", [stream.decode()], [self._group, self.name])

    async def _contents_ready(self) -> None:
        if self._failures or self._next_reclaim == 0.0:
            await self._contents.make_groups(self._streams)

    async def _failed(self, error: RedisError) -> None:
        if not is_outage(error) and not is_missing_group(error):
            raise error
        if self._failures == 0:
            self._log.warning("cannot read", error=str(error))
        self._failures += 1
        # The answer may have been lost after Redis gave us entries: they are ours and unknown to us.
        self._reread = True
        await pause(self._stop, backoff_s(self._failures))

    async def _reclaim(self, limit: int) -> list[RawEntry]:
        now = asyncio.get_running_loop().time()
        if now < self._next_reclaim:
            return []
        self._next_reclaim = now + min(self._terms.lease_ms / 4000, _RECLAIM_S)
        await self._sweep.run(now)
        slots = list(self._slots)
        share = max(1, limit // len(slots))
        replies = await asyncio.gather(*(self._reclaim_one(stream, share) for stream in slots))
        stale: list[RawEntry] = []
        for stream, (cursor, _, *rows) in zip(slots, replies, strict=True):
            self._cursors[stream] = cursor
            stale += self._reclaimed(stream, rows)
        if not stale:
            stale = await self._suspect([stream for stream, reply in zip(slots, replies, strict=True) if reply[1]])
        if stale:
            self._next_reclaim = 0.001  # more may wait behind the cursor
        return stale

    def _reclaimed(self, stream: bytes, rows: Sequence[Any]) -> list[RawEntry]:
        name, partition = self._slots[stream]
        found = [
            RawEntry(name, partition, entry_id, dict(zip(flat[0::2], flat[1::2], strict=True)), deliveries)
            for entry_id, deliveries, flat in rows
        ]
        # Our own, whose lease ran out in an outage, are being worked on: nobody else has taken them.
        taken = [entry for entry in found if not self.holds(entry)]
        if taken:
            metrics.RECLAIMED.labels(name).inc(len(taken))
            self._log.info("reclaimed", stream=name, partition=partition, entries=len(taken))
        return taken

    async def _reclaim_one(self, stream: bytes, limit: int) -> list[Any]:
        cursor = self._cursors[stream]
        arguments: list[Argument] = [self._group, self.name, self._terms.lease_ms, cursor, limit]
        reply = await self._scripts.call("reclaim", [stream.decode()], [*arguments, self._terms.max_attempts])
        return list(reply)

    async def _suspect(self, streams: Sequence[bytes]) -> list[RawEntry]:
        """One entry that was handed out again and again without ever being handled; it may kill its consumers.

        One at a time: what was read together with a killer must not reach the limit with it.
        """
        for stream in streams:
            name, partition = self._slots[stream]
            held = [entry for entry in self._held.values() if entry.deliveries > self._terms.max_attempts]
            # Views wait for older ones of their partition: one that ours wait for must come, or neither ever would.
            mine = [entry.entry_id for entry in held if (entry.stream, entry.partition) == (name, partition)]
            if len(mine) < len(held):
                continue
            reply = await self._call_suspect(stream, b"(" + min(mine, key=_order) if mine else b"+")
            if len(reply) == len(("id", "deliveries")):
                metrics.DEAD_LETTERED.labels(name, CONSUMERS_DIED).inc()
                self._log.error("buried", stream=name, reason=CONSUMERS_DIED, entry_id=reply[0].decode())
            elif reply and (taken := self._reclaimed(stream, [reply])):
                return taken
        return []

    async def _call_suspect(self, stream: bytes, end: bytes) -> list[Any]:
        name, partition = self._slots[stream]
        limit = self._terms.max_attempts * _CRASHES_PER_ATTEMPT
        detail = f"handed out {limit} times and never handled: look at the logs of its consumers"
        terms: list[Argument] = [self._terms.lease_ms, self._terms.max_attempts, limit]
        letter: list[Argument] = [name, CONSUMERS_DIED, detail]
        keys = [stream.decode(), self._scripts.partitions[partition].dead]
        return list(await self._scripts.call("suspect", keys, [self._group, self.name, *terms, end, *letter]))

    async def _read_own(self, limit: int) -> list[RawEntry]:
        """What Redis counts as ours though we do not hold it."""
        entries: list[RawEntry] = []
        cursors = dict.fromkeys(self._slots, b"0-0")
        while cursors:
            found = await self._reading.own(cursors, max(1, limit))
            cursors = {stream: rows[-1][0] for stream, rows in found if rows}
            entries += [entry for entry in self._entries(found) if not self.holds(entry)]
        return entries

    async def _read_new(self, limit: int, *, wait: bool) -> list[RawEntry]:
        streams = len(self._slots)
        if limit < streams:
            entries = self._entries(await self._reading.in_turn(limit))
            if entries or not wait:
                return entries
        # All were empty just now: that several fill at the same moment is rare, and one entry of each is bearable.
        block_ms = _BLOCK_MS if wait else None
        return self._entries(await self._reading.new(self._slots, max(1, limit // streams), block_ms))

    def _entries(self, found: list[Any]) -> list[RawEntry]:
        entries = []
        for stream, rows in found:
            name, partition = self._slots[stream]
            # An entry that somebody deleted while it was pending has no fields; there is nothing to handle.
            entries += [RawEntry(name, partition, entry_id, fields) for entry_id, fields in rows if fields]
        return entries

    async def _renew(self) -> None:
        for (stream, partition), ids in _by_slot(self._held.values()).items():
            key = self._scripts.partitions[partition].stream(stream)
            kept = set(await self._scripts.call("renew", [key], [self._group, self.name, *ids]))
            for entry_id in ids:
                if entry_id not in kept and (stream, partition, entry_id) in self._held:
                    del self._held[stream, partition, entry_id]
                    self._log.debug("no longer held", stream=stream, entry_id=entry_id.decode())


def _by_slot(entries: Iterable[RawEntry]) -> dict[_Slot, list[bytes]]:
    by_slot: dict[_Slot, list[bytes]] = {}
    for entry in entries:
        by_slot.setdefault((entry.stream, entry.partition), []).append(entry.entry_id)
    return by_slot


def _order(entry_id: bytes) -> tuple[int, int]:
    """An entry id as numbers: ms since the epoch, sequence."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence)
