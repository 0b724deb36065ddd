"""Views on their way in and into the counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.msgpack import Encoder
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.keys import GROUPS, are_of
from shared.levels import COUNT_MAX
from shared.messages import Tally
from shared.redis_client import is_down, together
from shared.state.joining import Argument
from shared.state.scripts import Scripts

_encode = Encoder().encode


@dataclass(frozen=True, slots=True)
class Part:
    """Views of one partition that are taken in together, once for their `marker`, which lives for `life_ms`."""

    marker: str
    life_ms: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of any number of partitions that are taken in together, once for their `marker`: `packed` per partition."""

    marker: str
    life_ms: int
    packed: Mapping[int, bytes]


NO_BATCH = Batch("", 0, {})
Parts = Mapping[int, Sequence[Part]]
"""By partition."""


class DeadlineError(Exception):
    """The command reached Redis after its deadline; nothing was taken in."""


class TakenPartlyError(Exception):
    """Some partitions have taken their parts in, others could not just now; its cause says why."""


class Views:
    """Ingest's verbs."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts

    async def publish(self, parts: Parts, batch: Batch = NO_BATCH, *, deadline_ms: int = 0) -> int:
        """Take in the parts of each partition, then the batch; returns how many tallies were new. Repeating adds none.

        On one Redis all partitions or none. On a cluster each partition for itself: TakenPartlyError says that some are
        in, and a repetition with the same markers brings in the others. Raises DeadlineError where Redis' clock was
        past `deadline_ms` (0: never), redis.RedisError where the outcome is unknown or nothing happened.
        """
        return await self._publish(sorted(parts.keys() | batch.packed.keys()), parts, batch, deadline_ms)

    async def _publish(self, partitions: Sequence[int], parts: Parts, batch: Batch, deadline_ms: int) -> int:
        groups = together(self._scripts.redis, partitions)
        calls = (self._publish_together(group, parts, batch, deadline_ms) for group in groups)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        taken = sum(outcome for outcome in outcomes if isinstance(outcome, int))
        failures = sorted((outcome for outcome in outcomes if isinstance(outcome, BaseException)), key=_gravity)
        if not failures:
            return taken
        if len(failures) == len(groups) or _gravity(failures[0]) == _LASTING:
            raise failures[0]
        if not isinstance(failures[0], DeadlineError):
            raise TakenPartlyError from failures[0]
        # The deadline passed between two partitions: end what began.
        late = [
            p for group, outcome in zip(groups, outcomes, strict=True) if not isinstance(outcome, int) for p in group
        ]
        return taken + await self._publish(late, parts, batch, 0)

    async def _publish_together(self, group: Sequence[int], parts: Parts, batch: Batch, deadline_ms: int) -> int:
        """The partitions of one group, in one script: it looks at the clock once for all of them."""
        has_batch = not batch.packed.keys().isdisjoint(group)
        names: list[str] = []
        arguments: list[Argument] = [deadline_ms, batch.life_ms if has_batch else 0]
        for partition in group:
            keys, items = self._scripts.partitions[partition], parts.get(partition, ())
            names += [keys.stream("views"), *(keys.seen(part.marker) for part in items)]
            arguments.append(len(items))
            for part in items:
                arguments += (part.life_ms, part.packed)
            arguments.append(batch.packed.get(partition, b""))
        if has_batch:
            names.append(self._scripts.partitions[group[0]].seen(batch.marker))
        reply = await self._scripts.call("publish", names, arguments)
        if reply[0] == 0:
            raise DeadlineError
        return int(reply[1])

    async def remember(self, key: str, digest: str, life_ms: int) -> str:
        """The digest that came first with this Idempotency-Key: this one, or the one it was first used with."""
        name = self._scripts.of(key).idempotency(key)
        first = await self._scripts.redis.set(name, digest, nx=True, get=True, px=life_ms)
        return first.decode() if isinstance(first, bytes) else digest


_LASTING = 0


def _gravity(failure: BaseException) -> int:
    """The lowest first: what repeating will not mend, what may have been done all the same, a refusal, lateness."""
    if isinstance(failure, DeadlineError):
        return 3
    if not is_down(failure):
        return _LASTING
    return 1 if isinstance(failure, RedisConnectionError | RedisTimeoutError) else 2


@dataclass(frozen=True, slots=True)
class Tallied:
    """What became of a batch: `counted`; or nothing, as entries were `stale` or it is not all in this consumer's hands.

    Then it is `behind`: `oldest` is the first entry up to its end that another holds.
    """

    outcome: Literal["counted", "stale", "behind"]
    reviews: int = 0
    stale: frozenset[bytes] = frozenset()
    oldest: bytes = b""


class Tallies:
    """The planner's counting."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts

    def partition_of(self, cid: str) -> int:
        """The partition on which the cid's views belong."""
        return self._scripts.of(cid).partition

    def are_of(self, partition: int, cids: Iterable[str]) -> bool:
        """True where the views of all these belong on that partition."""
        return are_of(partition, cids, len(self._scripts.partitions))

    async def apply(self, partition: int, ids: Sequence[bytes], tally: Tally, seen_ms: int) -> Tallied:
        """Count the tally of the entries `ids` (ascending), which leave the stream in the same step.

        `seen_ms` says when the first of its views was accepted.
        """
        keys = self._scripts.partitions[partition]
        # What came after a total is folded into it, so a cid's total and its increments never both stand here
        # unless increments came first, and then the total has replaced them.
        cids, numbers = (*tally.add, *tally.set), (*tally.add.values(), *tally.set.values())
        sums = _encode((cids, numbers))
        arguments: list[Argument] = [GROUPS["views"], len(ids), COUNT_MAX, len(tally.add), seen_ms, sums, *ids]
        names = [keys.stream("views"), keys.review, keys.counts]
        reply = await self._scripts.join("tally", names, arguments, packed=2 * len(cids))
        if reply[0] == b"counted":
            return Tallied("counted", reviews=reply[1])
        if reply[0] == b"stale":
            return Tallied("stale", stale=frozenset(reply[1:]))
        return Tallied("behind", oldest=reply[1])
