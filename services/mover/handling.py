"""What moves and retires have in common: starting an attempt, and what an error leads to."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from redis.exceptions import RedisError

from services.mover.copying import HandedBackError
from shared import metrics
from shared.batching import Batcher
from shared.consume import Consumer
from shared.errors import DeadLetterError, InvalidError, RetryError
from shared.log import Log
from shared.messages import Move, Placed, Retire
from shared.patience import StoppedError, patiently
from shared.redis_client import is_missing_group
from shared.state.moves import NOT_MINE, OBSOLETE, DeadLetters, Held, Moves, RawEntry

_FIRST_WAIT_MS, _LONGEST_WAIT_MS = 500, 60_000
_BATCH = 500
UNDECODABLE = "undecodable"
ATTEMPTS_USED_UP = "attempts used up"

T = TypeVar("T")
R = TypeVar("R")


def wait_ms(attempt: int) -> int:
    """How long to wait after the attempt (from 1): doubling from half a second to a minute, with jitter."""
    longest = min(_FIRST_WAIT_MS << min(attempt - 1, 20), _LONGEST_WAIT_MS)
    return round(longest * random.uniform(0.5, 1))  # noqa: S311  # spreads retries, keeps no secret


@dataclass(frozen=True)
class Handling:
    """Takes an entry from its start to where an error leads it; the step itself is the caller's."""

    consumer: Consumer
    moves: Moves
    dead_letters: DeadLetters
    log: Log
    stop: asyncio.Event
    max_attempts: int

    async def patiently(self, action: Callable[[], Awaitable[T]], doing: str) -> T:
        """Repeat the action through outages."""
        return await patiently(action, self.stop, self.log, doing)

    def by_partition(
        self,
        call: Callable[[int, Sequence[T]], Awaitable[Sequence[R]]],
        partition_of: Callable[[T], int],
        gone: R,
        doing: str,
    ) -> Batcher[T, R]:
        """A batcher of a verb that takes items of one partition; `gone` answers where Redis was emptied."""

        async def of_partition(partition: int, items: Sequence[T]) -> Sequence[R]:
            try:
                return await call(partition, items)
            except RedisError as error:
                if is_missing_group(error):
                    return [gone] * len(items)
                raise

        async def flush(items: Sequence[T]) -> Sequence[R]:
            places: dict[int, list[int]] = defaultdict(list)
            for place, item in enumerate(items):
                places[partition_of(item)].append(place)
            answers = await asyncio.gather(
                *(
                    self.patiently(lambda p=p, of=of: of_partition(p, [items[i] for i in of]), doing)  # type: ignore[misc]
                    for p, of in places.items()
                ),
            )
            results: dict[int, R] = {}
            for of, replies in zip(places.values(), answers, strict=True):
                results.update(zip(of, replies, strict=True))
            return [results[place] for place in range(len(items))]

        return Batcher(flush, _BATCH)

    async def decode(self, entry: RawEntry, kind: type[Move | Retire]) -> Held | None:
        """The entry's message in hand, or None: it could not be decoded and is buried."""
        try:
            return Held(entry.stream, entry.partition, entry.entry_id, kind.parse(entry.fields))
        except InvalidError as error:
            letter = DeadLetterError(UNDECODABLE, str(error))
            if await self.patiently(lambda: self.dead_letters.bury_raw(entry, letter), "bury"):
                self._buried(entry.stream, letter, entry_id=entry.entry_id.decode())
            return None

    async def start(self, held: Held, starting: Batcher[Held, int]) -> Held | None:
        """The entry with its fencing token, or None: it is obsolete, another's, or has used up its attempts."""
        attempt = await starting.submit(held)
        if attempt in {OBSOLETE, NOT_MINE}:
            self.log.info("not started", stream=held.stream, cid=held.message.cid, obsolete=attempt == OBSOLETE)
            return None
        held = replace(held, attempt=attempt)
        if attempt > self.max_attempts:
            await self.bury(
                held, DeadLetterError(ATTEMPTS_USED_UP, f"{self.max_attempts} attempts ended without a word")
            )
            return None
        return held

    async def settle_error(self, entry: RawEntry, held: Held, error: Exception) -> str:
        """Carry out what the error says is next; returns the outcome's name. Raises what says nothing of that."""
        if isinstance(error, HandedBackError | StoppedError):
            await self.patiently(lambda: self.consumer.hand_back([entry]), "hand back")
            return "handed back"
        if isinstance(error, RetryError) and held.attempt < self.max_attempts:
            wait = wait_ms(held.attempt)
            await self.patiently(lambda: self.moves.postpone(held, wait, str(error)), "postpone")
            self.log.warning("postponed", stream=held.stream, cid=held.message.cid, wait_ms=wait, error=str(error))
            return "retry"
        if isinstance(error, RetryError | DeadLetterError):
            await self.bury(held, DeadLetterError(error.reason, error.detail))
            return "dead"
        raise error

    async def bury(self, held: Held, error: DeadLetterError) -> None:
        """Make the entry a dead letter, unless the attempt is stale."""
        if await self.patiently(lambda: self.dead_letters.bury(held, error), "bury"):
            message: Move | Placed = held.message
            self._buried(held.stream, error, cid=message.cid, move_id=message.move_id)

    def _buried(self, stream: str, error: DeadLetterError, **fields: str) -> None:
        metrics.DEAD_LETTERED.labels(stream, error.reason).inc()
        self.log.error("buried", stream=stream, reason=error.reason, detail=error.detail, **fields)
