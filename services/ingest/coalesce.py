"""All views that wait at the same moment go out as one entry per partition, in one call."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from uuid import uuid4

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from services.ingest.gate import Gate
from services.ingest.payloads import Intake
from services.ingest.problems import UnavailableError
from services.ingest.sums import spread
from shared.levels import COUNT_MAX
from shared.log import Log
from shared.messages import Tally
from shared.patience import backoff_s
from shared.redis_client import is_down
from shared.state.views import Batch, DeadlineError, Part, Parts, TakenPartlyError, Views

_BATCH_LIFE_MS = 600_000
"""Long beyond any deadline: a repeated batch finds its marker."""
_REQUESTS_MAX = 2_000
"""Requests in one load."""
_WAITING_MAX = 20_000
_LONGEST_WAIT_S = 0.5
_SHORT_S = 0.2
"""With less time left a load is refused unsent. A load stays open for as long at most, while another is under way."""

_LATE = UnavailableError("Redis did not answer in time: nothing was taken in, repeat later")

Answer = asyncio.Future[UnavailableError | None]


class _Load:
    """The views of requests that came at nearly the same moment; they go out together, and are answered alike."""

    def __init__(self, began: float, deadline_s: float, partitions: int, key_life_ms: int) -> None:
        self.deadline = began + deadline_s
        """That of its first request, so nobody's is later by more than a load stays open."""
        self.size = 0
        self.waiting: list[Answer] = []
        self._closes = began + _short(deadline_s)
        self._partitions = partitions
        self._key_life_ms = key_life_ms
        self._parts: dict[int, list[Part]] = defaultdict(list)
        self._tallies: dict[int, list[Tally]] = defaultdict(list)
        self._counted: Counter[str] = Counter()

    def has_room(self, now: float) -> bool:
        return now < self._closes and len(self.waiting) < _REQUESTS_MAX

    def add(self, intake: Intake, marker: str) -> None:
        """With a `marker` the views are taken in once for it, else with whoever waits too."""
        if marker:
            for partition, tally in self._of(intake).items():
                self._parts[partition].append(Part(marker, self._key_life_ms, tally.pack()))
        elif intake.increments:
            intake.increments.add_to(self._counted)
        else:
            self._add_tallies(intake.tallies)
        for event in intake.events:
            self._parts[event.partition].append(Part(event.marker, self._key_life_ms, event.packed))

    def packed(self) -> tuple[Parts, Batch]:
        """Views without a marker are summed into one batch; the others are parts of their own."""
        self._sum_up()
        sums = {partition: merged(tallies).pack() for partition, tallies in self._tallies.items()}
        return self._parts, Batch(f"b-{uuid4().hex}", _BATCH_LIFE_MS, sums)

    def _add_tallies(self, tallies: Mapping[int, Tally]) -> None:
        if self._counted and any(tally.set for tally in tallies.values()):
            # A total replaces what came before it, and nothing else.
            self._sum_up()
        for partition, tally in tallies.items():
            self._tallies[partition].append(tally)

    def _of(self, intake: Intake) -> Mapping[int, Tally]:
        if not intake.increments:
            return intake.tallies
        alone: Counter[str] = Counter()
        intake.increments.add_to(alone)
        return spread(alone, self._partitions)

    def _sum_up(self) -> None:
        for partition, tally in spread(self._counted, self._partitions).items():
            self._tallies[partition].append(tally)
        self._counted = Counter()


class Publisher:
    """Takes views in. Any number of requests may wait at once; one load is under way at a time."""

    def __init__(
        self,
        views: Views,
        gate: Gate,
        log: Log,
        *,
        partitions: int,
        deadline_s: float,
        pending_limit: int,
        key_life_s: int,
    ) -> None:
        """`pending_limit` bytes of bodies may wait; the markers of keys and events live for `key_life_s`."""
        self._views = views
        self._gate = gate
        self._partitions = partitions
        self._log = log
        self._deadline_s = deadline_s
        self._pending_limit = pending_limit
        self._key_life_ms = key_life_s * 1000
        self._pending_bytes = 0
        self._pending = 0
        self._loads: deque[_Load] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def publish(self, intake: Intake, size: int, marker: str = "") -> None:
        """Returns when Redis has acknowledged what came in `size` bytes. Raises UnavailableError as `submit` does."""
        refusal = await self.submit(intake, size, marker)
        if refusal is not None:
            raise refusal

    def submit(self, intake: Intake, size: int, marker: str = "") -> Answer:
        """The answer comes as the future's result: why Redis did not take in what came in `size` bytes, or None.

        The intake's increments are let go of. Raises UnavailableError, or brings it as the result: nothing was taken
        in; or, where Redis fell silent in the midst of it, nobody knows, and only a repetition with the same marker (or
        event ids) is safe.
        """
        self._gate.check()
        if self._pending_bytes + size > self._pending_limit or self._pending >= _WAITING_MAX:
            raise UnavailableError("too many views wait for Redis: nothing was taken in, repeat later", retry_after_s=1)
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        if not intake.accepted:
            answer.set_result(None)
            return answer
        load = self._open_load(loop.time())
        load.add(intake, marker)
        intake.increments = None
        load.size += size
        load.waiting.append(answer)
        self._pending_bytes += size
        self._pending += 1
        if self._sending is None:
            self._sending = loop.create_task(self._send_all())
        return answer

    def _open_load(self, now: float) -> _Load:
        if not self._loads or not self._loads[-1].has_room(now):
            self._loads.append(_Load(now, self._deadline_s, self._partitions, self._key_life_ms))
        return self._loads[-1]

    async def _send_all(self) -> None:
        """Whatever comes while a load is under way makes up the next ones: no timer, no added delay."""
        try:
            while self._loads:
                load = self._loads.popleft()
                try:
                    await self._send_load(load)
                finally:
                    self._pending_bytes -= load.size
                    self._pending -= len(load.waiting)
        finally:
            self._sending = None

    async def _send_load(self, load: _Load) -> None:
        try:
            if load.deadline - asyncio.get_running_loop().time() <= _short(self._deadline_s):
                refusal: UnavailableError | None = _LATE
            else:
                refusal = await self._send(*load.packed(), load.deadline)
        except Exception as error:  # noqa: BLE001  # handed to those who wait for the answer
            for answer in load.waiting:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer in load.waiting:
            if not answer.done():
                answer.set_result(refusal)

    async def _send(self, parts: Parts, batch: Batch, deadline: float) -> UnavailableError | None:
        """Repeat the same, with the same markers, until Redis has taken all of it in or the deadline is over.

        Raises redis.RedisError where Redis says that the command itself is wrong.
        """
        failures = 0
        while True:
            try:
                # The deadline bounds what we wait for, and Redis' copy of it what a command does that got stuck on
                # its way: nothing is taken in after we gave up.
                async with asyncio.timeout_at(deadline + _SHORT_S):
                    await self._views.publish(parts, batch, deadline_ms=self._gate.redis_ms(deadline))
            except DeadlineError:
                return _refusal("Redis got the views too late", failures)
            except (RedisError, TimeoutError, TakenPartlyError) as error:
                if isinstance(error, RedisError) and not is_down(error):
                    raise
                if _refuses_writes(error):
                    self._log.warning("redis refuses views", error=str(error))
                    return _refusal("Redis refuses writes just now", failures)
                failures += 1
                if failures == 1:
                    self._log.warning("repeating a batch", error=str(error.__cause__ or error) or type(error).__name__)
                wait_s = min(backoff_s(failures), _LONGEST_WAIT_S)
                if asyncio.get_running_loop().time() + wait_s >= deadline:
                    self._gate.shut()
                    return _refusal("Redis does not answer", failures)
                await asyncio.sleep(wait_s)
            else:
                return None


def _short(deadline_s: float) -> float:
    return min(_SHORT_S, deadline_s / 2)


def _refusal(cause: str, failures: int) -> UnavailableError:
    """With `failures` before it, one of them may have been a success whose reply was lost."""
    outcome = "nothing was taken in" if not failures else "perhaps it was taken in all the same"
    return UnavailableError(f"{cause}: {outcome}; repeat later, with an Idempotency-Key to be safe")


def merged(tallies: Sequence[Tally]) -> Tally:
    """What the tallies amount to, in their order."""
    if len(tallies) == 1:
        return tallies[0]
    if any(tally.set for tally in tallies):
        whole = Tally.empty()
        for tally in tallies:
            whole.merge(tally)
        return whole
    # Increments alone, which is the rule under load: without a call per content.
    added: dict[str, int] = {}
    for tally in tallies:
        for cid, views in tally.add.items():
            added[cid] = added.get(cid, 0) + views
    if max(added.values()) > COUNT_MAX:
        added = {cid: min(views, COUNT_MAX) for cid, views in added.items()}
    return Tally(added, {})


def _refuses_writes(error: BaseException) -> bool:
    """True where Redis said no, and repeating within seconds is of no use: out of memory, disk or replica trouble."""
    text = str(error)[:80]
    said_no = isinstance(error, ResponseError) and any(word in text for word in ("OOM", "MISCONF", "NOREPLICAS"))
    return said_no or isinstance(error, OutOfMemoryError)
