"""The mover: `python -m services.mover`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from services.mover.handling import Handling
from services.mover.moving import Moving
from services.mover.retiring import Retiring
from services.mover.roots import Roots
from services.mover.settings import MoverSettings
from shared import metrics
from shared.catalog import Catalog
from shared.consume import Consumer, Terms
from shared.patience import patiently, pause, until_stopped
from shared.service import Runtime, run
from shared.state.moves import DeadLetters, Moves, RawEntry

_DUE_S = 0.25
_DUE_LIMIT = 200
_OUTCOMES = ("handed back", "retry", "dead")


async def move(runtime: Runtime[MoverSettings]) -> None:
    """Place and retire files until stopped."""
    settings, scripts, log, stop = runtime.settings, runtime.scripts, runtime.log, runtime.stop
    for outcome in _OUTCOMES:
        metrics.MOVES.labels(outcome, "")
        metrics.RETIRES.labels(outcome)
    reader = runtime.reader()
    terms = Terms(settings.lease_ms, settings.max_attempts)
    consumer = Consumer(scripts, reader, ["moves", "retires"], terms=terms, log=log, stop=stop)
    moves = Moves(scripts)
    handling = Handling(consumer, moves, DeadLetters(scripts), log, stop, settings.max_attempts)
    catalog = Catalog(runtime.connections)
    roots = Roots(catalog, settings.mover_roots)
    # Retires have threads of their own: they are short, and must not wait behind long copies.
    with (
        ThreadPoolExecutor(settings.mover_concurrency, "place") as placing,
        ThreadPoolExecutor(settings.mover_concurrency, "retire") as retiring,
    ):
        hands = Hands(consumer, Moving(handling, roots, placing), Retiring(handling, roots, catalog, retiring))
        try:
            await until_stopped(
                consumer.keep_leases(),
                hands.run(settings.mover_concurrency, stop),
                _put_back_due(runtime, moves),
            )
        finally:
            await consumer.leave()
            await reader.aclose()


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
        while not stop.is_set():
            room = concurrency - len(self._tasks)
            if room <= 0:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            else:
                for entry in await self._consumer.take(room):
                    self._tasks.add(asyncio.create_task(self._handle(entry)))
                metrics.LAST_SUCCESS.labels("move").set_to_current_time()
            self._reap()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._reap()

    async def _handle(self, entry: RawEntry) -> None:
        try:
            await (self._moving if entry.stream == "moves" else self._retiring).handle(entry)
        finally:
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
