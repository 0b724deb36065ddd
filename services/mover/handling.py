"""What moves and retires have in common: starting an attempt, and what an error leads to."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from redis.exceptions import RedisError

from services.mover.blame import LEVEL_AWAY, LEVEL_TROUBLE, WHOLE_LEVEL
from services.mover.breaker import Breakers, Door, doors_of
from services.mover.copying import HandedBackError
from services.mover.roots import OutdatedError
from shared import metrics
from shared.consume import Consumer
from shared.errors import DeadLetterError, InvalidError, RetryError
from shared.log import Log
from shared.messages import Move, Placed, Retire
from shared.patience import StoppedError, patiently
from shared.redis_client import is_missing_group
from shared.state.breakers import OpenBreakers
from shared.state.moves import NOT_MINE, OBSOLETE, WAITED, DeadLetters, Held, Moves, RawEntry

_FIRST_WAIT_MS, _LONGEST_WAIT_MS = 500, 60_000
_REPLANNED_MS = 2000
"""Until every planner has read the level table by which a move was outdated, and will not plan the same again."""
BATCH = 500
"""How many items at most share one call to a server."""
_DIGITS = 10
UNDECODABLE = "undecodable"
ATTEMPTS_USED_UP = "attempts used up"

T = TypeVar("T")
R = TypeVar("R")


class Work(NamedTuple):
    """An entry, and what it says with its fencing token."""

    entry: RawEntry
    held: Held


class LevelWaitsError(Exception):
    """A level's breaker is open: nothing was tried."""

    def __init__(self, wait_s: float, why: str) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def _spread_ms(wait_s: float) -> int:
    """A little later than asked for, so that what waits for one level does not come back all at once."""
    return round(wait_s * 1000 * random.uniform(1, 1.2)) + 50  # noqa: S311  # spreads retries, keeps no secret


def _blamed(held: Held, error: RetryError) -> Door:
    source, target = doors_of(held.message)
    return source if error.blames == "source" else target


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
    breakers: Breakers
    published: OpenBreakers

    async def patiently(self, action: Callable[[], Awaitable[T]], doing: str) -> T:
        """Repeat the action through outages."""
        return await patiently(action, self.stop, self.log, doing)

    def by_partition(
        self,
        call: Callable[[int, Sequence[T]], Awaitable[Sequence[R]]],
        partition_of: Callable[[T], int],
        gone: R,
        doing: str,
    ) -> Callable[[Sequence[T]], Awaitable[Sequence[R]]]:
        """A verb for items of any partitions, from one that takes items of one; `gone` answers where Redis was emptied.

        One call per partition, all at once.
        """

        async def of_partition(partition: int, items: Sequence[T]) -> Sequence[R]:
            try:
                return await call(partition, items)
            except RedisError as error:
                if is_missing_group(error):
                    return [gone] * len(items)
                raise

        async def call_all(items: Sequence[T]) -> Sequence[R]:
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

        return call_all

    async def current(self, held: Sequence[Held]) -> Sequence[bool]:
        """Per item whether its attempt is still the content's latest."""
        ask = self.by_partition(
            self.moves.current, lambda held: held.partition, gone=False, doing="ask which attempts are current"
        )
        return await ask(held)

    async def begin(
        self,
        entries: Sequence[RawEntry],
        kind: type[Move | Retire],
        start: Callable[[Sequence[Held]], Awaitable[Sequence[int]]],
    ) -> list[Work]:
        """Decode and start entries; left out are those that are undecodable, obsolete, another's, or given up on."""
        decoded = [(entry, held) for entry in entries if (held := await self.decode(entry, kind)) is not None]
        attempts = await start([held for _, held in decoded])
        works = []
        for (entry, held), attempt in zip(decoded, attempts, strict=True):
            started = await self._started(held, attempt)
            if started is not None:
                works.append(Work(entry, started))
        return works

    async def decode(self, entry: RawEntry, kind: type[Move | Retire]) -> Held | None:
        """The entry's message in hand, or None: it could not be decoded and is buried."""
        try:
            message = self._parse(entry, kind)
        except InvalidError as error:
            letter = DeadLetterError(UNDECODABLE, str(error))
            if await self.patiently(lambda: self.dead_letters.bury_raw(entry, letter), "bury"):
                self._buried(entry.stream, letter, entry_id=entry.entry_id.decode())
            return None
        waited = entry.fields.get(WAITED.encode(), b"")
        return Held(
            entry.stream,
            entry.partition,
            entry.entry_id,
            message,
            waited=int(waited) if waited.isdigit() and len(waited) < _DIGITS else 0,
        )

    def _parse(self, entry: RawEntry, kind: type[Move | Retire]) -> Move | Retire:
        message = kind.parse(entry.fields)
        if self.moves.partition_of(message.cid) != entry.partition:
            # Its state is elsewhere: here it would pass for obsolete, and go without a word.
            raise InvalidError(f"content {message.cid} is on partition {entry.partition}, not on its own")
        return message

    async def _started(self, held: Held, attempt: int) -> Held | None:
        """The entry with its fencing token, or None: it is obsolete, another's, or has used up its attempts."""
        if attempt in {OBSOLETE, NOT_MINE}:
            self.log.info("not started", stream=held.stream, cid=held.message.cid, obsolete=attempt == OBSOLETE)
            return None
        held = held.begun(attempt)
        if held.tries > self.max_attempts:
            await self.bury(
                held, DeadLetterError(ATTEMPTS_USED_UP, f"{self.max_attempts} attempts ended without a word")
            )
            return None
        return held

    @contextmanager
    def through(self, doors: Sequence[Door], who: str) -> Iterator[None]:
        """Do the file work of the block. Raises LevelWaitsError where a level's breaker is open."""
        now = asyncio.get_running_loop().time()
        wait_s = self.breakers.wait_s(doors, who, now)
        if wait_s:
            raise LevelWaitsError(wait_s, "; ".join(f"{level} keeps failing: {why}" for level, why in self._why(doors)))
        try:
            yield
            self.breakers.succeeded(doors)
        finally:
            self.breakers.ended(doors, who)

    def _why(self, doors: Sequence[Door]) -> list[tuple[str, str]]:
        return [(door.level, why) for door in doors if (why := self.breakers.why(door.level))]

    async def settle_error(self, entry: RawEntry, held: Held, error: Exception) -> str:
        """Carry out what the error says is next; returns the outcome's name. Raises what says nothing of that."""
        if isinstance(error, StoppedError):
            await self.patiently(lambda: self.consumer.hand_back([entry]), "hand back")
            return "handed back"
        if isinstance(error, HandedBackError):
            # As a new entry: this one would count as one that kills its consumers, after some restarts.
            await self._postpone(held, 0, str(error), counted=False)
            return "handed back"
        if isinstance(error, LevelWaitsError):
            await self._postpone(held, _spread_ms(error.wait_s), str(error), counted=False)
            return "waits"
        if isinstance(error, OutdatedError):
            return await self._withdraw(held, error)
        if isinstance(error, RetryError):
            is_open = self._blame(held, error)
            counted = not is_open and error.reason not in LEVEL_AWAY
            if not counted or held.tries < self.max_attempts or await self._waits_elsewhere(held, error):
                wait = wait_ms(held.tries if counted else held.attempt)
                await self._postpone(held, wait, str(error), counted=counted and held.tries < self.max_attempts)
                return "retry"
        if isinstance(error, RetryError | DeadLetterError):
            await self.bury(held, DeadLetterError(error.reason, error.detail))
            return "dead"
        raise error

    async def _postpone(self, held: Held, wait: int, why: str, *, counted: bool) -> None:
        await self.patiently(lambda: self.moves.postpone(held, wait, why, counted=counted), "postpone")
        self.log.warning("postponed", stream=held.stream, cid=held.message.cid, wait_ms=wait, error=why)

    async def _withdraw(self, held: Held, error: OutdatedError) -> str:
        done = await self.patiently(lambda: self.moves.withdraw(held, _REPLANNED_MS), "withdraw")
        self.log.warning("withdrawn" if done else "refused", cid=held.message.cid, error=str(error))
        return "withdrawn" if done else "refused"

    def _blame(self, held: Held, error: RetryError) -> bool:
        """Tell the level's breaker; True when it is open now."""
        if error.reason not in LEVEL_TROUBLE or not error.blames:
            return False
        door = _blamed(held, error)
        now = asyncio.get_running_loop().time()
        whole = error.reason in WHOLE_LEVEL
        return self.breakers.failed(door, held.message.move_id, now, whole=whole, why=str(error))

    async def _waits_elsewhere(self, held: Held, error: RetryError) -> bool:
        """Another mover has found out that it is the level, not the content: nothing to give up for."""
        if error.reason not in LEVEL_TROUBLE or not error.blames:
            return False
        found = await self.patiently(self.published.read, "read the breakers")
        return any(one.level == _blamed(held, error).level for one in found)

    async def bury(self, held: Held, error: DeadLetterError) -> None:
        """Make the entry a dead letter, unless the attempt is stale."""
        if await self.patiently(lambda: self.dead_letters.bury(held, error), "bury"):
            message: Move | Placed = held.message
            self._buried(held.stream, error, cid=message.cid, move_id=message.move_id)

    def _buried(self, stream: str, error: DeadLetterError, **fields: str) -> None:
        metrics.DEAD_LETTERED.labels(stream, error.reason).inc()
        self.log.error("buried", stream=stream, reason=error.reason, detail=error.detail, **fields)
