"""All views that wait at the same moment go out as one entry per partition, in one call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from services.ingest.gate import Gate
from services.ingest.payloads import Intake
from services.ingest.problems import UnavailableError
from shared.batching import Batcher
from shared.levels import COUNT_MAX
from shared.log import Log
from shared.messages import Tally
from shared.patience import backoff_s
from shared.redis_client import is_down
from shared.state.views import DeadlineError, Part, TakenPartlyError, Views

_BATCH_LIFE_MS = 600_000
"""Long beyond any deadline: a repeated batch finds its marker."""
_REQUESTS_MAX = 2_000
"""Requests in one batch."""
_WAITING_MAX = 20_000
_LONGEST_WAIT_S = 0.5
_SHORT_S = 0.2
"""With less time left a request is refused unsent: it would make all others of its batch hurry."""

Parts = Mapping[int, Sequence[Part]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One request's views; with a `marker` they are taken in once for it, else with whoever waits too."""

    intake: Intake
    marker: str
    deadline: float


class Publisher:
    """Takes views in. Any number of requests may wait at once; one batch is under way at a time."""

    def __init__(
        self, views: Views, gate: Gate, log: Log, *, deadline_s: float, pending_limit: int, key_life_s: int
    ) -> None:
        """`pending_limit` bytes of bodies may wait; the markers of keys and events live for `key_life_s`."""
        self._views = views
        self._gate = gate
        self._log = log
        self._deadline_s = deadline_s
        self._pending_limit = pending_limit
        self._key_life_ms = key_life_s * 1000
        self._pending_bytes = 0
        self._pending = 0
        self._batcher: Batcher[_Waiting, UnavailableError | None] = Batcher(self._flush, _REQUESTS_MAX)

    async def publish(self, intake: Intake, size: int, marker: str = "") -> None:
        """Returns when Redis has acknowledged what came in `size` bytes.

        Raises UnavailableError: nothing was taken in; or, where Redis fell silent in the midst of it, nobody knows, and
        only a repetition with the same marker (or event ids) is safe.
        """
        self._gate.check()
        if not intake.accepted:
            return
        if self._pending_bytes + size > self._pending_limit or self._pending >= _WAITING_MAX:
            raise UnavailableError("too many views wait for Redis: nothing was taken in, repeat later", retry_after_s=1)
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        self._pending_bytes += size
        self._pending += 1
        try:
            refusal = await self._batcher.submit(_Waiting(intake, marker, deadline))
        finally:
            self._pending_bytes -= size
            self._pending -= 1
        if refusal is not None:
            raise refusal

    async def _flush(self, waiting: Sequence[_Waiting]) -> list[UnavailableError | None]:
        now = asyncio.get_running_loop().time()
        short = min(_SHORT_S, self._deadline_s / 2)
        sent = [request for request in waiting if request.deadline - now > short]
        late = UnavailableError("Redis did not answer in time: nothing was taken in, repeat later")
        refusal = None
        if sent:
            refusal = await self._send(self._parts(sent), min(request.deadline for request in sent))
        return [refusal if request.deadline - now > short else late for request in waiting]

    def _parts(self, waiting: Sequence[_Waiting]) -> Parts:
        """Views without a marker are summed into one part per partition; the others are parts of their own."""
        parts: dict[int, list[Part]] = defaultdict(list)
        anonymous: dict[int, list[Tally]] = defaultdict(list)
        for request in waiting:
            for partition, tally in request.intake.tallies.items():
                if request.marker:
                    parts[partition].append(Part(request.marker, self._key_life_ms, tally.pack()))
                else:
                    anonymous[partition].append(tally)
            for event in request.intake.events:
                parts[event.partition].append(Part(event.marker, self._key_life_ms, event.packed))
        batch = f"b-{uuid4().hex}"
        for partition, tallies in anonymous.items():
            parts[partition].append(Part(batch, _BATCH_LIFE_MS, merged(tallies).pack()))
        return parts

    async def _send(self, parts: Parts, deadline: float) -> UnavailableError | None:
        """Repeat the same parts, with the same markers, until Redis has taken them in or the deadline is over.

        Raises redis.RedisError where Redis says that the command itself is wrong.
        """
        failures = 0
        while True:
            try:
                # The deadline bounds what we wait for, and Redis' copy of it what a command does that got stuck on
                # its way: nothing is taken in after we gave up.
                async with asyncio.timeout_at(deadline + _SHORT_S):
                    await self._views.publish(parts, self._gate.redis_ms(deadline))
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
