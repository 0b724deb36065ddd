"""The mover: `python -m services.mover`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from services.mover.beneath import Reason
from services.mover.breaker import Breakers
from services.mover.breaking import show_breakers
from services.mover.handling import ATTEMPTS_USED_UP, UNDECODABLE, Handling
from services.mover.markers import Markers
from services.mover.moving import Moving
from services.mover.retiring import NOT_COMMITTED, Retiring
from services.mover.roots import Roots
from services.mover.settings import MoverSettings
from services.mover.survey import Survey
from shared import metrics
from shared.catalog import Catalog
from shared.consume import Consumer, Terms
from shared.messages import METHODS
from shared.patience import StoppedError, patiently, pause, until_stopped
from shared.service import Runtime, run
from shared.state.breakers import OpenBreakers
from shared.state.moves import DeadLetters, Moves, RawEntry

_DUE_S = 0.25
_DUE_LIMIT = 200
_OUTCOMES = ("handed back", "retry", "waits", "dead")
_REASONS = (*Reason, UNDECODABLE, ATTEMPTS_USED_UP, NOT_COMMITTED)


async def move(runtime: Runtime[MoverSettings]) -> None:
    """Place and retire files until stopped."""
    settings, scripts, log, stop = runtime.settings, runtime.scripts, runtime.log, runtime.stop
    _initialise_metrics()
    reader = runtime.reader()
    terms = Terms(settings.lease_ms, settings.max_attempts)
    consumer = Consumer(scripts, reader, ["moves", "retires"], terms=terms, log=log, stop=stop)
    moves = Moves(scripts)
    breakers, published = Breakers(), OpenBreakers(runtime.redis)
    handling = Handling(
        consumer, moves, DeadLetters(scripts), log, stop, settings.max_attempts, breakers=breakers, published=published
    )
    catalog = Catalog(runtime.connections)
    roots, markers = Roots(catalog, settings.mover_roots), Markers(runtime.redis, catalog)
    # Retires have threads of their own: they are short, and must not wait behind long copies.
    placing = ThreadPoolExecutor(settings.mover_concurrency, "place")
    retiring = ThreadPoolExecutor(settings.mover_concurrency, "retire")
    hands = Hands(
        consumer, Moving(handling, roots, markers, placing), Retiring(handling, roots, markers, catalog, retiring)
    )
    try:
        runtime.at_work()
        await until_stopped(
            consumer.keep_leases(),
            consumer.reading(hands.run(settings.mover_concurrency, stop)),
            _put_back_due(runtime, moves),
            show_breakers(breakers, published, consumer.name, catalog=catalog, log=log, stop=stop),
            Survey(catalog, runtime.redis, log, settings.mover_roots).run(stop),
        )
    finally:
        # Not waited for: where one is still at work, we were told to hurry, and its fencing token is given away.
        placing.shutdown(wait=False, cancel_futures=True)
        retiring.shutdown(wait=False, cancel_futures=True)
        await consumer.leave()
        await reader.aclose()


def _initialise_metrics() -> None:
    """Every series exists from the start; those by level follow when the table is read."""
    for outcome in (*_OUTCOMES, "withdrawn"):
        metrics.MOVES.labels(outcome, "")
    for outcome, method in product(("placed", "refused"), METHODS):
        metrics.MOVES.labels(outcome, method)
    for outcome in (*_OUTCOMES, "removed", "gone already", "refused"):
        metrics.RETIRES.labels(outcome)
    for stream, reason in product(("moves", "retires"), _REASONS):
        metrics.DEAD_LETTERED.labels(stream, reason)
    for loop in ("move", "room"):
        metrics.LAST_SUCCESS.labels(loop)


class Hands:
    """Reads only what can be started now."""

    def __init__(self, consumer: Consumer, moving: Moving, retiring: Retiring) -> None:
        """Moves go to `moving`, retires to `retiring`."""
        self._consumer = consumer
        self._moving = moving
        self._retiring = retiring
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, concurrency: int, stop: asyncio.Event) -> None:
        """Until stopped and empty-handed."""
        try:
            await self._read(concurrency, stop)
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._reap()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, concurrency: int, stop: asyncio.Event) -> None:
        while not stop.is_set():
            room = concurrency - len(self._tasks)
            if room <= 0:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            else:
                entries = await self._consumer.take(room)
                if stop.is_set():
                    await self._consumer.hand_back(entries)
                    return
                for entry in entries:
                    self._tasks.add(asyncio.create_task(self._handle(entry)))
                metrics.LAST_SUCCESS.labels("move").set_to_current_time()
            self._reap()

    async def _handle(self, entry: RawEntry) -> None:
        try:
            await (self._moving if entry.stream == "moves" else self._retiring).handle(entry)
        except asyncio.CancelledError:
            raise  # stays in hand: leaving gives it back
        except StoppedError:
            self._consumer.release([entry])
        except BaseException:
            # Not given back: it ends this mover, and would end the next one at once.
            self._consumer.release([entry])
            raise
        else:
            self._consumer.release([entry])

    def _reap(self) -> None:
        """Drop tasks that have ended; an error that none of them could classify ends the service."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()


async def _put_back_due(runtime: Runtime[MoverSettings], moves: Moves) -> None:
    """Bring back, in time, what was put aside."""

    async def put_back() -> None:
        for partition in range(runtime.settings.partitions):
            while await moves.due(partition, _DUE_LIMIT) == _DUE_LIMIT:
                pass

    while not runtime.stop.is_set():
        await patiently(put_back, runtime.stop, runtime.log, "bring back what is due")
        await pause(runtime.stop, _DUE_S)


if __name__ == "__main__":
    run("mover", MoverSettings, move, ["moves", "retires"])
