"""The one consumer loop: take over stale entries, read new ones, keep leases alive, stop by event."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.keys import GROUPS, PartitionKeys, StreamName
from shared.log import Log
from shared.patience import StoppedError, backoff_s, is_outage, pause
from shared.reading import Reading
from shared.reclaiming import EntryKey, Reclaiming, Slot
from shared.redis_client import is_missing_group
from shared.state.contents import Contents
from shared.state.moves import RawEntry
from shared.state.scripts import Scripts

_BLOCK_MS = 500
"""How long a read waits: a stop is noticed within it, since a blocking read is never cancelled."""
_LEAVE_S = 2.0
_SIDE_BY_SIDE = 8
"""Partitions whose streams of one name are read one after the other, so that a batch is of one kind, and full."""


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
        self._slots: dict[bytes, Slot] = {
            keys.stream(name).encode(): (name, keys.partition) for name, keys in _in_turn(streams, scripts.partitions)
        }
        partitions = {stream: partition for stream, (_, partition) in self._slots.items()}
        self._reading = Reading(reader, self._group, self.name, partitions)
        self._held: dict[EntryKey, RawEntry] = {}
        self._reclaiming = Reclaiming(
            scripts,
            self._slots,
            self._group,
            self.name,
            lease_ms=terms.lease_ms,
            max_attempts=terms.max_attempts,
            held=self._held,
            log=log,
        )
        self._renewing = asyncio.Lock()
        self._groups_made = False
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
            entries = self._entries(self._reading.arrived()) or await self._reclaiming.stale(limit)
            if self._reread:
                # What was just taken over is among it.
                entries = await self._read_own(limit)
                self._reread = False
            if not entries:
                entries = self._entries(await self._reading.take(limit, _BLOCK_MS if wait else None))
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
        # A renewal that is on its way may still name them; after ours it would put them back under a whole lease.
        async with self._renewing:
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
        if self._failures or not self._groups_made:
            await self._contents.make_groups(self._streams)
            self._groups_made = True

    async def _failed(self, error: RedisError) -> None:
        if not is_outage(error) and not is_missing_group(error):
            raise error
        if self._failures == 0:
            self._log.warning("cannot read", error=str(error))
        self._failures += 1
        # The answer may have been lost after Redis gave us entries: they are ours and unknown to us.
        self._reread = True
        await pause(self._stop, backoff_s(self._failures))

    async def _read_own(self, limit: int) -> list[RawEntry]:
        """What Redis counts as ours though we do not hold it."""
        entries: list[RawEntry] = []
        cursors = dict.fromkeys(self._slots, b"0-0")
        while cursors:
            found = await self._reading.own(cursors, max(1, limit))
            cursors = {stream: rows[-1][0] for stream, rows in found if rows}
            entries += [entry for entry in self._entries(found) if not self.holds(entry)]
        return entries

    def _entries(self, found: list[Any]) -> list[RawEntry]:
        entries = []
        for stream, rows in found:
            name, partition = self._slots[stream]
            # An entry that somebody deleted while it was pending has no fields; there is nothing to handle.
            entries += [RawEntry(name, partition, entry_id, fields) for entry_id, fields in rows if fields]
        return entries

    async def _renew(self) -> None:
        async with self._renewing:
            for (stream, partition), ids in _by_slot(self._held.values()).items():
                key = self._scripts.partitions[partition].stream(stream)
                kept = set(await self._scripts.call("renew", [key], [self._group, self.name, *ids]))
                for entry_id in ids:
                    if entry_id not in kept and (stream, partition, entry_id) in self._held:
                        del self._held[stream, partition, entry_id]
                        self._log.debug("no longer held", stream=stream, entry_id=entry_id.decode())


def _in_turn(
    streams: Sequence[StreamName], partitions: Sequence[PartitionKeys]
) -> Iterator[tuple[StreamName, PartitionKeys]]:
    for first in range(0, len(partitions), _SIDE_BY_SIDE):
        yield from product(streams, partitions[first : first + _SIDE_BY_SIDE])


def _by_slot(entries: Iterable[RawEntry]) -> dict[Slot, list[bytes]]:
    by_slot: dict[Slot, list[bytes]] = {}
    for entry in entries:
        by_slot.setdefault((entry.stream, entry.partition), []).append(entry.entry_id)
    return by_slot
