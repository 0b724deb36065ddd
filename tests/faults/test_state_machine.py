"""Any order of steps, crashes, duplicates and zombies over the real scripts and Redis; MySQL and the disk are models.

Seen to fail with `tally.lua` not asking which entries are pending (G1: counted twice), and with `publish.lua`
setting its marker without NX (G1: a repeated report taken in). RESHELVE_TEST_EXAMPLES=2000 makes it search for
longer than `make test` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.keys import WORK_STREAMS
from shared.messages import Tally, unpack_views
from shared.state.contents import Contents
from shared.state.views import Part, Views
from tests.faults.model_services import Attempt, Bench, Consumer, Mover, P, Planner, Recorder
from tests.faults.model_world import ModelWorld, counted
from tests.samples import SAMPLE_LEVELS

T = TypeVar("T")
EXAMPLES = int(os.environ.get("RESHELVE_TEST_EXAMPLES", "50"))
STEPS = 60
START = {"c0": "bronze", "c1": "bronze", "c2": "silver"}
OPEN_IN: dict[str, set[str]] = {
    "update": {"moves", "later:moves"},
    "moving": {"moves"},
    "done": {"placed"},
    "retiring": {"retires", "later:retires"},
}
_ROUNDS = 60
which = st.integers(0, 3)
"""One of several, from the end: 0 is the latest, others are what zombies hold."""


def pick(items: Sequence[T], number: int) -> T:
    return items[-1 - number % len(items)]


class Faults(RuleBasedStateMachine):
    """One example: a fresh Redis, three contents, two planners, three movers, two recorders."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.bench.do(self.bench.redis.flushdb())
        self.bench.do(Contents(self.bench.scripts).make_groups(WORK_STREAMS))
        self.world = ModelWorld(dict(START))
        self.accepted: list[Tally] = []
        self.markers: list[tuple[str, bytes]] = []
        self.bases: dict[str, int] = {}
        self.sound = True
        self.planners = [Planner(name, ["views"], self.bench, self.world) for name in "AB"]
        self.movers = [Mover(name, ["moves", "retires"], self.bench, self.world) for name in "ABC"]
        self.recorders = [Recorder(name, ["placed"], self.bench, self.world) for name in "AB"]

    # --- views ---

    @rule(cid=st.sampled_from(list(START)), total=st.booleans(), n=st.sampled_from([1, 900, 1100, 2500]))
    def report(self, cid: str, total: bool, n: int) -> None:
        tally = Tally.empty()
        (tally.total if total else tally.views)(cid, n)
        tally.views("c1", 1)
        marker = f"m{len(self.markers)}"
        self.markers.append((marker, tally.pack()))
        assert self._publish(*self.markers[-1]) == 1
        self.accepted.append(tally)

    @precondition(lambda self: self.markers)
    @rule(number=which)
    def report_again(self, number: int) -> None:
        assert self._publish(*pick(self.markers, number)) == 0, "G1: a repeated report was taken in"

    def _publish(self, marker: str, packed: bytes) -> int:
        return self.bench.do(Views(self.bench.scripts).publish({P: [Part(marker, 600_000, packed)]}))

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
        before = len(planner.looks)
        planner.look()
        for number in range(0 if late else len(planner.looks) - before):
            self._apply(planner, number)

    @precondition(lambda self: any(p.looks for p in self.planners))
    @rule(who=which, number=which)
    def apply(self, who: int, number: int) -> None:
        planner = pick([p for p in self.planners if p.looks], who)
        self._apply(planner, number)

    def _apply(self, planner: Planner, number: int) -> None:
        look = pick(planner.looks, number)
        if planner.apply(look):
            self.bases.setdefault(look.state.cid, look.base)

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

    @precondition(lambda self: any(m.hand for m in self.movers))
    @rule(who=which, number=which)
    def start(self, who: int, number: int) -> None:
        mover = pick([m for m in self.movers if m.hand], who)
        mover.start(pick(list(mover.hand.values()), number))

    def attempts(self) -> list[tuple[Mover, Attempt]]:
        """Those that stood still longest first."""
        return [(mover, attempt) for mover in self.movers for attempt in mover.attempts]

    @precondition(lambda self: self.attempts())
    @rule(number=which, steps=st.integers(1, 3))
    def advance(self, number: int, steps: int) -> None:
        mover, attempt = pick(self.attempts(), number)
        for _ in range(steps):
            mover.advance(attempt)

    @precondition(lambda self: self.attempts())
    @rule(number=which, bury=st.sampled_from([False, False, True]))
    def fail(self, number: int, bury: bool) -> None:
        mover, attempt = pick(self.attempts(), number)
        mover.bury(attempt, "disk on fire") if bury else mover.postpone(attempt)

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

    # --- faults ---

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

    @precondition(lambda self: len(self.world.rows) == len(START))
    @rule(cid=st.sampled_from(list(START)))
    def forget(self, cid: str) -> None:
        if not self.bench.do(Contents(self.bench.scripts).forget(cid)):
            del self.world.rows[cid]

    # --- what must hold after every step ---

    @invariant()
    def nothing_is_lost_and_nothing_is_twice(self) -> None:
        self.sound = False
        states, entries, views, dead = self._look()
        for cid in self.world.rows:
            self._check_count(cid, states[cid], views)
        for cid, state in states.items():
            _check_open(cid, state, entries[cid], dead)
        self.world.check()
        self.sound = True

    def _look(self) -> tuple[dict[str, Any], dict[str, list[tuple[str, str]]], list[Tally], set[str]]:
        keys, pipe = self.bench.keys, self.bench.redis.pipeline(transaction=True)
        for cid in START:
            pipe.hgetall(keys.content(cid))
        for stream in WORK_STREAMS:
            pipe.xrange(keys.stream(stream))
        pipe.zrange(keys.later, 0, -1)
        pipe.xrange(keys.dead)
        *hashes, views, moves, placed, retires, later, dead = self.bench.do(pipe.execute())
        states = {
            cid: {name.decode(): value.decode() for name, value in fields.items()}
            for cid, fields in zip(START, hashes, strict=True)
        }
        entries: dict[str, list[tuple[str, str]]] = {cid: [] for cid in START}
        for stream, rows in (("moves", moves), ("placed", placed), ("retires", retires)):
            for _, fields in rows:
                entries[fields[b"cid"].decode()].append((stream, fields[b"move_id"].decode()))
        for member in later:
            stream, *flat = orjson.loads(member)
            fields = dict(zip(flat[0::2], flat[1::2], strict=True))
            entries[fields["cid"]].append((f"later:{stream}", fields["move_id"]))
        return states, entries, [unpack_views(fields) for _, fields in views], {f[b"f:cid"].decode() for _, f in dead}

    def _check_count(self, cid: str, state: dict[str, str], waiting: list[Tally]) -> None:
        """G1: what was counted and what still waits make, in this order, what was accepted."""
        base = self.bases.get(cid, 0)
        have, want = counted(waiting, cid, int(state.get("count", 0))), counted(self.accepted, cid, base)
        assert have == want, f"G1: {cid} comes to {have}, accepted were {want}"

    # --- the end: whoever crashes is replaced, everybody gets a turn ---

    def teardown(self) -> None:
        if not self.sound:
            return
        for consumer in self.everybody():
            consumer.crash()
        self.bench.do(Contents(self.bench.scripts).touch(self.world.rows, "all"))
        for _ in range(_ROUNDS):
            self._everybody_has_a_turn()
            if self._is_quiet():
                break
        self.nothing_is_lost_and_nothing_is_twice()
        states, entries, views, dead = self._look()
        assert not views, "G6: views wait for ever"
        assert not any(entries.values()), f"G6: entries wait for ever: {entries}"
        for cid, level in self.world.rows.items():
            if cid not in dead:
                assert states[cid]["status"] == "idle", f"G6: {cid} is {states[cid]['status']} for ever"
                wanted = SAMPLE_LEVELS.level_for(int(states[cid]["count"])).content_level
                assert level == wanted, f"G6: {cid} counts {states[cid]['count']} and rests on {level}"

    def _everybody_has_a_turn(self) -> None:
        planner, mover, recorder = self.planners[0], self.movers[0], self.recorders[0]
        mover.due()
        for consumer in (planner, mover, recorder):
            consumer.reclaim(100)
            consumer.read(100)
        if planner.hand:
            planner.tally(list(planner.hand.values()))
        planner.look()
        while planner.looks:
            self._apply(planner, 0)
            planner.looks.pop()
        for entry in list(mover.hand.values()):
            mover.start(entry)
        for attempt in mover.attempts:
            for _ in range(3):
                mover.advance(attempt)
        mover.attempts.clear()
        recorder.commit(list(recorder.hand.values()))
        recorder.follow(recorder.verdicts)
        recorder.crash()

    def _is_quiet(self) -> bool:
        _, entries, views, _ = self._look()
        reviews = {cid.decode() for cid in self.bench.do(self.bench.redis.zrange(self.bench.keys.review, 0, -1))}
        return not views and not any(entries.values()) and not reviews & self.world.rows.keys()


def _check_open(cid: str, state: dict[str, str], entries: list[tuple[str, str]], dead: set[str]) -> None:
    """G2: at most one relocation is open, and its entry is where the state says."""
    status = state.get("status", "")
    assert len(entries) <= 1, f"G2: {cid} has {entries}"
    assert bool(entries) == (status in OPEN_IN), f"G2: {cid} is {status!r} with {entries}"
    for where, move_id in entries:
        assert where in OPEN_IN[status], f"G2: {cid} is {status!r}, but its entry is in {where}"
        assert move_id == state["move_id"], f"G2: {cid} works on {state['move_id']}, its entry is of {move_id}"
    assert status != "failed" or cid in dead, f"G6: {cid} failed without a dead letter"


@pytest.fixture
def bench(redis_db: str) -> Iterator[Bench]:
    opened = Bench(redis_db)
    yield opened
    opened.close()


@pytest.mark.timeout(120 + EXAMPLES)
def test_no_order_of_steps_crashes_and_zombies_breaks_a_guarantee(bench: Bench) -> None:
    machine = type("OnThisBench", (Faults,), {"bench": bench})
    search = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, phases=(Phase.generate, Phase.shrink))
    run_state_machine_as_test(machine, settings=search)
