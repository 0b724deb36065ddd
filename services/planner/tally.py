"""Counting views: entries in, counts and reviews out. Knows no policy."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice

from redis.exceptions import RedisError

from shared import metrics
from shared.consume import Consumer
from shared.errors import DeadLetterError, InvalidError
from shared.log import Log
from shared.messages import Tally, unpack_views
from shared.patience import patiently, pause
from shared.redis_client import is_missing_group
from shared.state.moves import DeadLetters, RawEntry
from shared.state.views import Tallied, Tallies

_SUMS_AT_ONCE = 2000
"""Contents that one script call counts: it holds Redis for some milliseconds, and nobody else is served meanwhile."""
_AT_ONCE = 2
"""Partitions that are counted side by side while there is more, each by one call at a time: Redis finds the next call
when it has answered one. With more, everybody else waits for several calls in a row."""
_SUMS_TAKEN = 16_000
"""Sums that one take is to bring, by the size of the entries so far: 3 MB here."""
_SUMS_HELD, _BATCHES_HELD = (_AT_ONCE + 2) * _SUMS_TAKEN, 16
"""Behind an entry of a planner that died, the rest of the backlog stays in Redis until the lease has run out."""
_FIRST_TAKE = 64
"""Entries, while their size is not known."""
_SUMS_AN_ENTRY = 16.0
"""At least: a backlog of small entries may have large ones behind it."""
_DECODED_AT_ONCE = 64
"""Entries, before calls that have been answered meanwhile are followed by the next: some 3 ms."""
_BEHIND_S = 0.01

Row = tuple[RawEntry, Tally]


class Tallying:
    """Applies views entries in the order of their stream; keeps those that must wait for an older one."""

    def __init__(
        self, consumer: Consumer, tallies: Tallies, dead_letters: DeadLetters, log: Log, *, crossed: Callable[[], None]
    ) -> None:
        """`crossed` is called when contents were put up for review."""
        self._consumer = consumer
        self._tallies = tallies
        self._dead_letters = dead_letters
        self._log = log
        self._crossed = crossed
        self._waiting: dict[int, list[Row]] = defaultdict(list)
        self._counting: dict[int, asyncio.Task[None]] = {}
        self._sums_an_entry = _SUMS_TAKEN / _FIRST_TAKE

    async def run(self, limit: int, stop: asyncio.Event) -> None:
        """At most `limit` entries at a time, until stopped; what still waits is handed back."""
        room = 0
        ahead: asyncio.Task[list[RawEntry]] | None = None
        try:
            while not stop.is_set():
                if ahead:
                    entries, ahead = await ahead, None
                else:
                    room = self._room(limit)
                    entries = await self._consumer.take(room, wait=not any(self._waiting.values()))
                for entry, error in await self._sort_in(entries):
                    await patiently(lambda e=entry, w=error: self._bury(e, w), stop, self._log, "bury")  # type: ignore[misc]
                if 2 * len(entries) > room > 0:
                    # There is more: Redis hands it out while this is being counted.
                    room = self._room(limit)
                    ahead = asyncio.create_task(self._consumer.take(room, wait=False))
                self._begin(stop)
                await self._until_at_most(_AT_ONCE - 1 if ahead else 0)
                metrics.LAST_SUCCESS.labels("tally").set_to_current_time()
                if not ahead and any(self._waiting.values()):
                    await pause(stop, _BEHIND_S)
            await self._until_at_most(0)
        finally:
            await self._break_off()
            # Never cancelled: its answer may hold entries, which nobody would know of.
            unsorted = await ahead if ahead else []
        rest = [entry for rows in self._waiting.values() for entry, _ in rows]
        await patiently(lambda: self._consumer.hand_back([*rest, *unsorted]), stop, self._log, "hand back")

    def _begin(self, stop: asyncio.Event) -> None:
        """Count the partitions that have something waiting, side by side."""
        for partition, rows in self._waiting.items():
            if rows and partition not in self._counting:
                work = patiently(lambda p=partition: self._apply_partition(p), stop, self._log, "tally")  # type: ignore[misc]
                self._counting[partition] = asyncio.create_task(work)

    async def _until_at_most(self, number: int) -> None:
        """Returns when no more partitions than that are being counted. Raises what kept one from it."""
        while len(self._counting) > number:
            await asyncio.wait(self._counting.values(), return_when=asyncio.FIRST_COMPLETED)
            for partition, counting in list(self._counting.items()):
                if counting.done():
                    del self._counting[partition]
                    counting.result()

    async def _break_off(self) -> None:
        """A call that is under way counts all of its entries or none, whatever becomes of us."""
        for counting in self._counting.values():
            counting.cancel()
        await asyncio.gather(*self._counting.values(), return_exceptions=True)

    def _held(self) -> int:
        return sum(len(tally.add) + len(tally.set) for rows in self._waiting.values() for _, tally in rows)

    def _room(self, limit: int) -> int:
        """How many entries to take: their size is the producers' choice, and memory is bounded."""
        entries = min(limit, _BATCHES_HELD * limit - sum(map(len, self._waiting.values())))
        sums = min(_SUMS_TAKEN, _SUMS_HELD - self._held())
        return max(0, min(entries, int(sums / self._sums_an_entry) or 1)) if sums > 0 else 0

    async def _sort_in(self, entries: Sequence[RawEntry]) -> list[tuple[RawEntry, InvalidError]]:
        """Those that cannot be decoded, each with its fault."""
        faulty, sums = [], 0
        sound: dict[int, list[Row]] = defaultdict(list)
        for number, entry in enumerate(entries):
            if number % _DECODED_AT_ONCE == _DECODED_AT_ONCE - 1:
                # Partitions are being counted meanwhile: Redis would wait for their next call.
                await asyncio.sleep(0)
            try:
                tally = unpack_views(entry.fields)
                self._check_partition(entry.partition, tally)
            except InvalidError as error:
                faulty.append((entry, error))
                continue
            sound[entry.partition].append((entry, tally))
            sums += len(tally.add) + len(tally.set)
        if entries:
            # Larger entries count at once, smaller ones bit by bit: few large ones fill the memory.
            self._sums_an_entry = max(_SUMS_AN_ENTRY, sums / len(entries), self._sums_an_entry / 2)
        for partition, rows in sound.items():
            # In one step, as the partition may be being counted. Reclaimed entries are older than those read before.
            both = [*self._waiting[partition], *rows]
            self._waiting[partition] = sorted(both, key=lambda row: _order(row[0].entry_id))
        return faulty

    def _check_partition(self, partition: int, tally: Tally) -> None:
        # Counted here, it would have a second state, and could be relocated by both.
        for part in (tally.add, tally.set):
            if not self._tallies.are_of(partition, part):
                cid = next(cid for cid in part if self._tallies.partition_of(cid) != partition)
                raise InvalidError(f"views of {cid!r} are on partition {partition}, not on its own")

    async def _bury(self, entry: RawEntry, error: InvalidError) -> None:
        if await self._dead_letters.bury_raw(entry, DeadLetterError("undecodable", str(error))):
            metrics.DEAD_LETTERED.labels("views", "undecodable").inc()
            self._log.error("buried", stream="views", reason="undecodable", detail=str(error))
        self._consumer.release([entry])

    async def _apply_partition(self, partition: int) -> None:
        while self._waiting[partition] and await self._apply_some(partition):
            pass

    async def _apply_some(self, partition: int, before: bytes = b"") -> bool:
        """Count the oldest waiting entries, at most those older than `before`; False when they must go on waiting."""
        rows = self._waiting[partition]
        tally, taken, sums = Tally.empty(), 0, 0
        for entry, part in rows:
            if before and _order(entry.entry_id) >= _order(before):
                break
            sums = len(tally.add) + len(tally.set)
            if taken and sums + len(part.add) + len(part.set) > _SUMS_AT_ONCE:
                break
            tally.merge(part)
            taken += 1
        if not taken:
            return False
        ids = [entry.entry_id for entry, _ in islice(rows, taken)]
        tallied = await self._call(partition, ids, tally)
        if tallied.outcome == "stale":
            self._drop(partition, tallied.stale)
            return True
        if tallied.outcome == "behind":
            # A lease that was lost tells itself here too: the entry is older and in other hands. Count what is older
            # still: two planners whose entries alternate would otherwise wait for each other for ever.
            return await self._apply_some(partition, tallied.oldest)
        self._drop(partition, frozenset(ids))
        metrics.VIEWS_TALLIED.inc(sum(tally.add.values()) + len(tally.set))
        metrics.CONTENTS_TALLIED.inc(len(tally.add) + len(tally.set))
        if tallied.reviews:
            self._crossed()
        return True

    async def _call(self, partition: int, ids: Sequence[bytes], tally: Tally) -> Tallied:
        try:
            return await self._tallies.apply(partition, ids, tally, _order(ids[0])[0])
        except RedisError as error:
            if not is_missing_group(error):
                raise
            # Redis was emptied, and the entries with it.
            return Tallied("stale", stale=frozenset(ids))

    def _drop(self, partition: int, ids: frozenset[bytes]) -> None:
        """By their ids: others may have been sorted in among them during the call."""
        rows = self._waiting[partition]
        self._consumer.release(entry for entry, _ in rows if entry.entry_id in ids)
        self._waiting[partition] = [row for row in rows if row[0].entry_id not in ids]


def _order(entry_id: bytes) -> tuple[int, int]:
    """An entry id as numbers: ms since the epoch, sequence."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence)
