"""Reading the state of contents, and the verbs that are nobody's turn in the flow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Self

from redis.exceptions import ResponseError

from shared.keys import GROUPS, WORK_STREAMS, StreamName
from shared.state.counts import Counted
from shared.state.scripts import Scripts

Status = Literal["", "idle", "update", "moving", "done", "retiring", "failed", "unknown", "forgotten"]
OPEN_STATUSES: frozenset[Status] = frozenset({"update", "moving", "done", "retiring"})
"""A relocation is open."""

_FORGET_MS = 60_000
_FIELDS = (
    "level", "filename", "status", "move_id", "target", "worker_id", "attempt", "version", "moved_at", "why", "error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ContentState:
    """What Redis holds of a content; empty text and None where it holds nothing.

    `count` may lack the catalog's base while `level` is empty and `absolute` is not set; `at` and `moved_at` are ms.
    While `away`, views ask for no review.
    """

    cid: str
    level: str
    filename: str
    count: int
    at: int
    lo: int | None
    hi: int | None
    status: Status
    move_id: str
    target: str
    worker_id: str
    attempt: int
    version: str
    moved_at: int
    why: str
    absolute: bool
    error: str
    away: bool = False

    @classmethod
    def of(cls, cid: str, values: Sequence[bytes | None]) -> Self:
        """From the values of `_FIELDS` in their order, and what `counts` holds."""
        *fields, counts = values
        texts = [value.decode() if value is not None else "" for value in fields]
        level, filename, status, move_id, target, worker_id, attempt, version, moved_at, why, error = texts
        counted = Counted.parse(counts)
        return cls(
            cid=cid,
            level=level,
            filename=filename,
            count=counted.count,
            at=counted.at,
            lo=counted.lo,
            hi=counted.hi,
            status=status,  # type: ignore[arg-type]
            move_id=move_id,
            target=target,
            worker_id=worker_id,
            attempt=int(attempt or 0),
            version=version or "0",
            moved_at=int(moved_at or 0),
            why=why,
            absolute=counted.absolute,
            error=error,
            away=counted.away,
        )


class Contents:
    """States of contents, and the sizes of the streams."""

    def __init__(self, scripts: Scripts) -> None:
        """All reads and writes go through `scripts`."""
        self._scripts = scripts

    async def read(self, cids: Sequence[str]) -> list[ContentState]:
        """The states in the order of `cids`; a content that Redis does not know has an empty status.

        What is counted is read a moment after the rest.
        """
        # No script: while a slot moves to another node, its keys are on both.
        by_partition = self._scripts.by_partition(cids)
        async with self._scripts.redis.pipeline(transaction=False) as pipe:
            for cid in cids:
                pipe.hmget(self._scripts.of(cid).content(cid), _FIELDS)
            for partition, members in by_partition.items():
                pipe.hmget(self._scripts.partitions[partition].counts, members)
            replies = await pipe.execute()
        held = dict(zip(chain(*by_partition.values()), chain(*replies[len(cids) :]), strict=True))
        return [ContentState.of(cid, [*values, held[cid]]) for cid, values in zip(cids, replies, strict=False)]

    async def touch(self, cids: Iterable[str], which: Literal["all", "known"] = "known") -> int:
        """Put contents up for review; `known` leaves out those that Redis holds nothing of. Returns how many."""
        touched = 0
        for partition, members in self._scripts.by_partition(cids).items():
            keys = self._scripts.partitions[partition]
            names = [keys.review, keys.counts, *(keys.content(cid) for cid in members)]
            touched += await self._scripts.call("touch", names, [which, *members])
        return touched

    async def forget(self, cid: str) -> str:
        """End the tracking; returns the status that forbids it where a relocation is open, else an empty text."""
        keys = self._scripts.of(cid)
        reply = await self._scripts.call("forget", [keys.content(cid), keys.review, keys.counts], [cid, _FORGET_MS])
        return reply.decode() if reply else ""

    async def backlog(self) -> dict[StreamName, int]:
        """Entries on each work stream, over all partitions; handled entries are gone, so this is the work left."""
        async with self._scripts.redis.pipeline(transaction=False) as pipe:
            for keys in self._scripts.partitions:
                for name in WORK_STREAMS:
                    pipe.xlen(keys.stream(name))
            sizes = await pipe.execute()
        return {name: sum(sizes[i :: len(WORK_STREAMS)]) for i, name in enumerate(WORK_STREAMS)}

    async def watch(self, name: StreamName) -> tuple[int, int, int | None]:
        """Entries, entries in the hands of consumers, and when (ms) the oldest came, over all partitions."""
        replies = await asyncio.gather(
            *(self._scripts.join("watch", [keys.stream(name)], [GROUPS[name]]) for keys in self._scripts.partitions),
        )
        oldest = [int(reply[2].partition(b"-")[0]) for reply in replies if reply[2]]
        return sum(reply[0] for reply in replies), sum(reply[1] for reply in replies), min(oldest, default=None)

    async def waiting(self) -> dict[Literal["review", "later", "dead"], int]:
        """Contents up for review, entries that wait for their time, and dead letters, over all partitions."""
        async with self._scripts.redis.pipeline(transaction=False) as pipe:
            for keys in self._scripts.partitions:
                pipe.zcard(keys.review)
                pipe.zcard(keys.later)
                pipe.xlen(keys.dead)
            sizes = await pipe.execute()
        return {"review": sum(sizes[0::3]), "later": sum(sizes[1::3]), "dead": sum(sizes[2::3])}

    async def make_groups(self, streams: Iterable[StreamName]) -> None:
        """Create the streams' consumer groups where they are missing, from the first entry on."""
        await asyncio.gather(
            *(
                self._make_group(keys.stream(name), GROUPS[name])
                for keys in self._scripts.partitions
                for name in streams
            ),
        )

    async def _make_group(self, stream: str, group: str) -> None:
        try:
            # From 0: entries that were there before the group are work too.
            await self._scripts.redis.xgroup_create(stream, group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
