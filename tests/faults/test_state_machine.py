"""Any order of steps, crashes, duplicates and zombies over the real scripts and Redis; MySQL and the disk are models.

docs/guarantees.md ("Seen to fail") says which protections were taken out to see it fail. `make test` takes the same
examples each time; RESHELVE_TEST_EXAMPLES=2000 takes so many others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.keys import WORK_STREAMS
from shared.messages import Tally
from shared.state.contents import Contents
from shared.state.dead_letters import DeadLetterQueue, Filter, LetterId, RefusedError
from shared.state.views import NO_BATCH, Batch, Part, Views
from tests.faults.model_consumer import Bench, Consumer, P, pick
from tests.faults.model_guarantees import Sight
from tests.faults.model_mover import Attempt, Mover, Recorder
from tests.faults.model_planner import Look, Planner
from tests.faults.model_turn import LAST, take_a_turn
from tests.faults.model_world import ModelWorld

_ASKED = os.environ.get("RESHELVE_TEST_EXAMPLES")
EXAMPLES = int(_ASKED or "100")
STEPS = 60
START = {"c0": "bronze", "c1": "bronze", "c2": "silver"}
_ROUNDS = 60
which = st.integers(0, 3)
"""One of several, from the end: 0 is the latest, others are what zombies hold."""


class Faults(RuleBasedStateMachine):
    """One example: a fresh Redis, three contents, two planners, three movers, two recorders."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.bench.do(self.bench.redis.flushdb())
        self.bench.do(Contents(self.bench.scripts).make_groups(WORK_STREAMS))
        self.world = ModelWorld(dict(START))
        self.accepted: list[Tally] = []
        self.markers: list[tuple[str, bytes, bool]] = []
        self.bases: dict[str, int] = {}
        self.sound = True
        self.planners = [Planner(name, ["views"], self.bench, self.world) for name in "AB"]
        self.movers = [Mover(name, ["moves", "retires"], self.bench, self.world) for name in "ABC"]
        self.recorders = [Recorder(name, ["placed"], self.bench, self.world) for name in "AB"]

    # --- views ---

    @rule(
        cid=st.sampled_from(list(START)),
        total=st.booleans(),
        n=st.sampled_from([1, 900, 1100, 2500]),
        alone=st.booleans(),
    )
    def report(self, cid: str, total: bool, n: int, alone: bool) -> None:
        tally = Tally.empty()
        (tally.total if total else tally.views)(cid, n)
        tally.views("c1", 1)
        marker = f"m{len(self.markers)}"
        self.markers.append((marker, tally.pack(), alone))
        assert self._publish(*self.markers[-1]) == 1
        self.accepted.append(tally)

    @precondition(lambda self: self.markers)
    @rule(number=which)
    def report_again(self, number: int) -> None:
        assert self._publish(*pick(self.markers, number)) == 0, "G1: a repeated report was taken in"

    def _publish(self, marker: str, packed: bytes, alone: bool) -> int:
        parts = {P: [Part(marker, 600_000, packed)]} if alone else {}
        batch = NO_BATCH if alone else Batch(marker, 600_000, {P: packed})
        return self.bench.do(Views(self.bench.scripts).publish(parts, batch))

    @rule(who=which, limit=st.integers(1, 3), counts=st.booleans())
    def read_views(self, who: int, limit: int, counts: bool) -> None:
        planner = pick(self.planners, who)
        planner.read(limit)
        if counts and planner.hand:
            planner.tally(list(planner.hand.values()))

    @precondition(lambda self: any(p.past for p in self.planners))
    @rule(number=which, some=st.sampled_from(["hand", "one", "past"]))
    def tally(self, number: int, some: str) -> None:
        planner = pick([p for p in self.planners if p.past], number)
        hand = list(planner.hand.values())
        entries = {"hand": hand, "one": [pick(planner.past, number)], "past": planner.past}[some]
        if entries:
            planner.tally(entries)

    # --- reviews ---

    @rule(who=which, late=st.booleans())
    def look(self, who: int, late: bool) -> None:
        planner = pick(self.planners, who)
        planner.look() if late else self._look_and_apply(planner)

    @precondition(lambda self: any(p.looks for p in self.planners))
    @rule(who=which, number=which)
    def apply(self, who: int, number: int) -> None:
        planner = pick([p for p in self.planners if p.looks], who)
        self._apply(planner, pick(planner.looks, number))

    def _apply(self, planner: Planner, look: Look) -> None:
        if planner.apply(look):
            self.bases.setdefault(look.state.cid, look.base)

    @rule()
    def leases_of_reviews_run_out(self) -> None:
        self.planners[0].fall_due()

    @rule(cid=st.sampled_from(list(START)), kind=st.sampled_from(["all", "known"]))
    def touch(self, cid: str, kind: Any) -> None:
        self.bench.do(Contents(self.bench.scripts).touch([cid], kind))

    # --- moves and retires ---

    @rule(who=which, steps=st.integers(-1, 3))
    def read_work(self, who: int, steps: int) -> None:
        mover = pick(self.movers, who)
        mover.read()
        before = len(mover.attempts)
        for entry in list(mover.hand.values()) if steps >= 0 else []:
            mover.start(entry)
        for attempt in mover.attempts[before:]:
            for _ in range(steps):
                mover.advance(attempt)

    @precondition(lambda self: any(m.past for m in self.movers))
    @rule(who=which, number=which)
    def start(self, who: int, number: int) -> None:
        """Also what it held once."""
        mover = pick([m for m in self.movers if m.past], who)
        mover.start(pick(mover.past, number))

    def attempts(self) -> list[tuple[Mover, Attempt]]:
        """The oldest first."""
        return sorted(((m, attempt) for m in self.movers for attempt in m.attempts), key=lambda one: one[1].started)

    @precondition(lambda self: self.attempts())
    @rule(number=which, steps=st.integers(1, 3))
    def advance(self, number: int, steps: int) -> None:
        mover, attempt = pick(self.attempts(), number)
        for _ in range(steps):
            mover.advance(attempt)

    @precondition(lambda self: self.attempts())
    @rule(number=which, how=st.sampled_from(["postpone", "bury", "withdraw"]))
    def fail(self, number: int, how: str) -> None:
        mover, attempt = pick(self.attempts(), number)
        {"postpone": mover.postpone, "bury": mover.bury, "withdraw": mover.withdraw}[how](attempt)

    @rule()
    def due(self) -> None:
        self.movers[0].due()

    # --- commits ---

    @rule(who=which, steps=st.integers(0, 2))
    def read_placed(self, who: int, steps: int) -> None:
        recorder = pick(self.recorders, who)
        recorder.read()
        if steps:
            recorder.commit(list(recorder.hand.values()))
        if steps > 1:
            recorder.follow(recorder.verdicts)

    @precondition(lambda self: any(r.past for r in self.recorders))
    @rule(who=which, number=which, follows=st.booleans())
    def commit(self, who: int, number: int, follows: bool) -> None:
        recorder = pick([r for r in self.recorders if r.past], who)
        recorder.commit([pick(recorder.past, number)])
        if follows:
            recorder.follow(recorder.verdicts[-1:])

    @precondition(lambda self: any(r.verdicts for r in self.recorders))
    @rule(who=which, number=which)
    def follow(self, who: int, number: int) -> None:
        recorder = pick([r for r in self.recorders if r.verdicts], who)
        recorder.follow([pick(recorder.verdicts, number)])

    # --- everybody at once: what makes deep states likely, and zombies of those who held the work before ---

    @rule(who=which, cid=st.sampled_from(list(START)), n=st.sampled_from([10, 1100, 2500]), last=st.integers(3, LAST))
    def travel(self, who: int, cid: str, n: int, last: int) -> None:
        self.report(cid, total=True, n=n, alone=False)
        self.turn(who, last)

    @rule(who=which, last=st.integers(1, LAST))
    def turn(self, who: int, last: int) -> None:
        planner = pick(self.planners, who)
        review = partial(self._look_and_apply, planner)
        take_a_turn(planner, pick(self.movers, who), pick(self.recorders, who), review, last)

    # --- dead letters ---

    @rule(number=which, back=st.booleans())
    def retry_or_drop(self, number: int, back: bool) -> None:
        queue = DeadLetterQueue(self.bench.scripts)
        letters = self.bench.do(queue.list(Filter(), 100))
        if not letters:
            return
        letter = pick(letters, number)
        if back:
            with suppress(RefusedError):
                self.bench.do(queue.retry(LetterId.parse(letter.id)))
        else:
            self.bench.do(queue.drop(LetterId.parse(letter.id)))
            self.bench.do(Contents(self.bench.scripts).touch([letter.cid], "all"))

    # --- faults ---

    @rule(who=st.integers(0, 4))
    def an_operator_removes_a_consumer(self, who: int) -> None:
        """Not a planner: views that are in nobody's hands lose their place in the order."""
        [*self.movers, *self.recorders][who].is_removed()

    def everybody(self) -> list[Consumer]:
        return [*self.planners, *self.movers, *self.recorders]

    @rule(who=st.integers(0, 6))
    def crash(self, who: int) -> None:
        self.everybody()[who].crash()

    @rule(who=st.integers(0, 6), limit=st.integers(1, 3))
    def reclaim(self, who: int, limit: int) -> None:
        self.everybody()[who].reclaim(limit)

    @precondition(lambda self: any(c.hand for c in self.everybody()))
    @rule(who=which, back=st.booleans())
    def renew_or_hand_back(self, who: int, back: bool) -> None:
        consumer = pick([c for c in self.everybody() if c.hand], who)
        consumer.hand_back() if back else consumer.renew()

    @rule(cid=st.sampled_from(list(START)), level=st.sampled_from(["bronze", "silver", "gold"]))
    def change_by_hand(self, cid: str, level: str) -> None:
        if cid in self.world.rows:
            self.world.change_by_hand(cid, level)
            self.bench.do(Contents(self.bench.scripts).touch([cid], "all"))

    @precondition(lambda self: len(self.world.rows) == len(START))
    @rule(cid=st.sampled_from(list(START)))
    def forget(self, cid: str) -> None:
        if not self.bench.do(Contents(self.bench.scripts).forget(cid)):
            del self.world.rows[cid]

    # --- what must hold after every step ---

    @invariant()
    def nothing_is_lost_and_nothing_is_twice(self) -> None:
        self.sound = False
        sight = self.see()
        sight.check_counts(self.world, self.accepted, self.bases)
        sight.check_open()
        self.world.check()
        self.sound = True

    def see(self) -> Sight:
        return Sight.of(self.bench, list(START))

    # --- the end: whoever crashes is replaced, everybody gets a turn ---

    def teardown(self) -> None:
        if not self.sound:
            return
        for consumer in self.everybody():
            consumer.crash()
        for _ in range(_ROUNDS):
            self.planners[0].fall_due()
            self.turn(-1, LAST)
            for consumer in (self.movers[0], self.recorders[0]):
                consumer.crash()
            if self.see().is_quiet(self.world):
                break
        self.nothing_is_lost_and_nothing_is_twice()
        self.see().check_rest(self.world)

    def _look_and_apply(self, planner: Planner) -> None:
        before = len(planner.looks)
        planner.look()
        for look in planner.looks[before:]:
            self._apply(planner, look)


@pytest.fixture
def bench(redis_db: str) -> Iterator[Bench]:
    opened = Bench(redis_db)
    yield opened
    opened.close()


@pytest.mark.timeout(120 + EXAMPLES)
def test_no_order_of_steps_crashes_and_zombies_breaks_a_guarantee(bench: Bench) -> None:
    phases = (Phase.generate, Phase.shrink)
    search = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, phases=phases, derandomize=not _ASKED)
    run_state_machine_as_test(type("OnThisBench", (Faults,), {"bench": bench}), settings=search)
