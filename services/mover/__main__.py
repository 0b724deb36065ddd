"""The mover: `python -m services.mover`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from services.mover.beneath import Reason
from services.mover.breaker import Breakers
from services.mover.breaking import show_breakers
from services.mover.handling import ATTEMPTS_USED_UP, UNDECODABLE, Handling
from services.mover.hands import Hands, most_together
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
from shared.patience import patiently, pause, until_stopped
from shared.service import Runtime, run
from shared.state.breakers import OpenBreakers
from shared.state.moves import DeadLetters, Moves

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
        consumer,
        {
            "moves": Moving(handling, roots, markers, placing),
            "retires": Retiring(handling, roots, markers, catalog, retiring),
        },
        settings.mover_concurrency,
        most_together(),
    )
    try:
        runtime.at_work()
        await until_stopped(
            consumer.keep_leases(),
            consumer.reading(hands.run(stop)),
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


async def _put_back_due(runtime: Runtime[MoverSettings], moves: Moves) -> None:
    """Bring back, in time, what was put aside."""

    async def put_back() -> None:
        partitions = list(range(runtime.settings.partitions))
        while partitions:
            found = await asyncio.gather(*(moves.due(partition, _DUE_LIMIT) for partition in partitions))
            partitions = [p for p, number in zip(partitions, found, strict=True) if number == _DUE_LIMIT]

    while not runtime.stop.is_set():
        await patiently(put_back, runtime.stop, runtime.log, "bring back what is due")
        await pause(runtime.stop, _DUE_S)


if __name__ == "__main__":
    run("mover", MoverSettings, move, ["moves", "retires"])
