"""A turn of three services: they take over whatever anybody holds, and bring it on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.faults.model_consumer import Consumer
from tests.faults.model_mover import Mover, Recorder
from tests.faults.model_planner import Planner

LAST = 11
"""The last step of a turn."""


def take_a_turn(planner: Planner, mover: Mover, recorder: Recorder, review: Callable[[], None], last: int) -> None:
    """They stop after the step `last`, and hold what they hold."""

    def advance() -> None:
        for attempt in mover.attempts:
            mover.advance(attempt)

    def start() -> None:
        mover.due()
        _take_all(mover)
        for entry in list(mover.hand.values()):
            mover.start(entry)

    steps: Sequence[Callable[[], None]] = [
        lambda: _take_all(planner),
        lambda: planner.tally(list(planner.hand.values())) if planner.hand else None,
        review,
        start,
        advance,
        advance,
        advance,
        lambda: _take_all(recorder),
        lambda: recorder.commit(list(recorder.hand.values())),
        lambda: recorder.follow(recorder.verdicts),
        mover.sweep,
        recorder.sweep,
    ]
    for step in steps[: last + 1]:
        step()


def _take_all(consumer: Consumer) -> None:
    consumer.reclaim(100)
    consumer.read(100)
