"""Committing placed copies: one transaction per batch, then a step in Redis per partition."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from redis.exceptions import RedisError

from shared import metrics
from shared.catalog import CatalogRefusedError, Commitments, Verdict
from shared.consume import Consumer
from shared.errors import DeadLetterError, InvalidError
from shared.log import Log, info_each
from shared.messages import Placed
from shared.patience import is_outage, patiently
from shared.redis_client import is_missing_group
from shared.state.moves import Commitment, Commits, DeadLetters, Held, RawEntry

CONFLICT = "catalog conflict"
REFUSED = "catalog refused"
UNDECODABLE = "undecodable"
REASONS = (CONFLICT, REFUSED, UNDECODABLE)

_AT_ONCE = 3
"""Batches under way: two are with MySQL while a third is followed in Redis. Each has a connection while it commits."""

Work = tuple[RawEntry, Placed]


class _UnderWay(NamedTuple):
    """A batch that is being carried out; `committed` is set when MySQL has it, or when it has failed."""

    task: asyncio.Task[None]
    committed: asyncio.Event
    cids: frozenset[str]


class Recording:
    """Safe to repeat at every step: MySQL knows the moves it has committed, the script the entries it has handled.

    While there is a backlog, some batches are under way side by side, of different contents: each waits for MySQL, for
    Redis and for their disks in its turn. What comes while a small batch is committed makes up the next one.
    """

    def __init__(
        self, consumer: Consumer, commitments: Commitments, commits: Commits, dead_letters: DeadLetters, log: Log
    ) -> None:
        """Commits through `commitments` (MySQL), then `commits` (Redis)."""
        self._consumer = consumer
        self._commitments = commitments
        self._commits = commits
        self._dead_letters = dead_letters
        self._log = log
        self._under_way: list[_UnderWay] = []

    async def run(self, limit: int, grace_ms: int, stop: asyncio.Event) -> None:
        """Until stopped; what is in hand is finished first, unless a server is away."""
        try:
            while not stop.is_set():
                entries = await self._consumer.take(limit, wait=not self._under_way)
                if not entries:
                    await self._until_at_most(0)
                batch = await patiently(lambda entries=entries: self._decode(entries), stop, self._log, "decode")  # type: ignore[misc]
                while batch:
                    part, batch = _one_per_content(batch)
                    committed = await self._begin(part, grace_ms, stop)
                    if len(part) * 2 < limit:
                        await committed.wait()
                metrics.LAST_SUCCESS.labels("record").set_to_current_time()
            await self._until_at_most(0)
        finally:
            for other in self._under_way:
                other.task.cancel()

    async def _begin(self, batch: Sequence[Work], grace_ms: int, stop: asyncio.Event) -> asyncio.Event:
        """Returns when there is room for the batch and it is under way; the event that tells of its commit."""
        cids = frozenset(placed.cid for _, placed in batch)
        # A second word on a content is judged against what the first has changed, and Redis hears of them in order.
        shared = any(not cids.isdisjoint(other.cids) for other in self._under_way)
        await self._until_at_most(0 if shared else _AT_ONCE - 1)
        committed = asyncio.Event()
        task = asyncio.create_task(self._carry_out(batch, grace_ms, stop, committed))
        self._under_way.append(_UnderWay(task, committed, cids))
        return committed

    async def _until_at_most(self, number: int) -> None:
        """Returns when no more batches than that are under way. Raises what kept one from being carried out."""
        while len(self._under_way) > number:
            await asyncio.wait([batch.task for batch in self._under_way], return_when=asyncio.FIRST_COMPLETED)
            done = [batch for batch in self._under_way if batch.task.done()]
            self._under_way = [batch for batch in self._under_way if batch not in done]
            for batch in done:
                batch.task.result()

    async def _carry_out(
        self, batch: Sequence[Work], grace_ms: int, stop: asyncio.Event, committed: asyncio.Event
    ) -> None:
        try:
            verdicts = await self._judged(batch, stop)
        finally:
            committed.set()
        await patiently(lambda: self._follow(batch, verdicts, grace_ms), stop, self._log, "follow the commit")

    async def _decode(self, entries: Sequence[RawEntry]) -> list[Work]:
        batch = []
        for entry in entries:
            try:
                batch.append((entry, self._parse(entry)))
            except InvalidError as error:
                await self._dead_letters.bury_raw(entry, DeadLetterError(UNDECODABLE, str(error)))
                self._buried(entry, UNDECODABLE, str(error))
        return batch

    def _parse(self, entry: RawEntry) -> Placed:
        placed = Placed.parse(entry.fields)
        if self._commits.partition_of(placed.cid) != entry.partition:
            # Its state is elsewhere: nothing here would ever settle it.
            raise InvalidError(f"content {placed.cid} is on partition {entry.partition}, not on its own")
        return placed

    async def _judged(self, batch: Sequence[Work], stop: asyncio.Event) -> list[Verdict]:
        try:
            return await patiently(lambda: self._commit(batch), stop, self._log, "commit")
        except CatalogRefusedError as error:
            if len(batch) > 1:
                # One of them is refused: find out which by taking each on its own.
                return [verdict for work in batch for verdict in await self._judged([work], stop)]
            return [f"{REFUSED}: {error}"]

    async def _commit(self, batch: Sequence[Work]) -> list[Verdict]:
        began = time.perf_counter()
        verdicts = await self._commitments.commit([placed for _, placed in batch], _now_ms())
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - began)
        metrics.COMMIT_BATCH_SIZE.observe(len(batch))
        return verdicts

    async def _follow(self, batch: Sequence[Work], verdicts: Sequence[Verdict], grace_ms: int) -> None:
        """Tell Redis what MySQL has; done after the commit, so that no source is ever retired before it."""
        committed: dict[int, list[Work]] = defaultdict(list)
        for work, verdict in zip(batch, verdicts, strict=True):
            if verdict in {"commit", "record", "committed"}:
                committed[work[0].partition].append(work)
            else:
                await self._bury(*work, verdict)
        await asyncio.gather(*(self._order_retires(p, works, grace_ms) for p, works in committed.items()))

    async def _order_retires(self, partition: int, works: Sequence[Work], grace_ms: int) -> None:
        now_ms = _now_ms()
        not_before = now_ms + grace_ms if grace_ms else 0
        commitments = [
            Commitment(entry.entry_id, placed.cid, placed.move_id, placed.to_level, entry.fields[b"body"])
            for entry, placed in works
        ]
        try:
            replies = await self._commits.commit(partition, commitments, not_before)
        except RedisError as error:
            if is_outage(error) or not is_missing_group(error):
                raise
            replies = [0] * len(works)  # Redis was emptied, and the entries with it.
        self._consumer.release([entry for entry, _ in works])
        self._tell([placed for (_, placed), reply in zip(works, replies, strict=True) if reply], now_ms)

    def _tell(self, committed: Sequence[Placed], now_ms: int) -> None:
        for (source, target), number in Counter((placed.from_level, placed.to_level) for placed in committed).items():
            metrics.RELOCATIONS_COMMITTED.labels(source, target).inc(number)
        for placed in committed:
            if placed.viewed_at:
                metrics.RELOCATION_SECONDS.observe(max(0, now_ms - placed.viewed_at) / 1000)
        info_each(
            self._log,
            "committed",
            [
                {"cid": placed.cid, "move_id": placed.move_id, "source": placed.from_level, "target": placed.to_level}
                for placed in committed
            ],
        )

    async def _bury(self, entry: RawEntry, placed: Placed, verdict: str) -> None:
        reason = REFUSED if verdict.startswith(REFUSED) else CONFLICT
        held = Held("placed", entry.partition, entry.entry_id, placed, placed.attempts)
        if await self._dead_letters.bury(held, DeadLetterError(reason, verdict), fenced=False):
            self._buried(entry, reason, verdict)
        self._consumer.release([entry])

    def _buried(self, entry: RawEntry, reason: str, detail: str) -> None:
        metrics.DEAD_LETTERED.labels("placed", reason).inc()
        self._log.error("buried", stream="placed", entry_id=entry.entry_id.decode(), reason=reason, detail=detail)
        self._consumer.release([entry])


def _one_per_content(batch: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """Split off one placed copy per cid; a second one is judged against what the first has changed."""
    first: dict[str, Work] = {}
    rest = [work for work in batch if first.setdefault(work[1].cid, work) is not work]
    return list(first.values()), rest


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
