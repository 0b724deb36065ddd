"""Planner, mover and recorder one script at a time, so that anything can happen between two of their steps.

What they do between scripts mirrors services/*: the same checks in the same order. They forget nothing that they
handled, and so can do it again as zombies do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from services.planner.decide import Decision, Facts, Open, Rest, decide
from shared.catalog.commits import Verdict
from shared.errors import DeadLetterError
from shared.keys import GROUPS, StreamName
from shared.messages import Move, Placed, Retire, Tally, unpack_views
from shared.moveid import new_move_id
from shared.redis_client import connect
from shared.state.contents import Contents, ContentState
from shared.state.moves import Commitment, Commits, DeadLetters, Held, Moves, RawEntry
from shared.state.reviews import Opening, Resting, Reviews
from shared.state.scripts import Scripts
from shared.state.views import Tallies
from tests.faults.model_world import ModelWorld, filename_of
from tests.samples import SAMPLE_LEVELS, a_placed, retire_of

T = TypeVar("T")
P = 0
"""All contents share one partition: nothing but the scripts keeps them apart."""


class Bench:
    """A Redis for code that is not async."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self.redis: Any = connect(url)
        self.scripts = Scripts(self.redis, 1)
        self.keys = self.scripts.partitions[P]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self.do(self.redis.aclose())
        self._loop.close()


@dataclass(eq=False)
class Consumer:
    """A process: its hand is what it believes to hold, `past` all that it ever had."""

    name: str
    streams: Sequence[StreamName]
    bench: Bench
    world: ModelWorld
    hand: dict[bytes, RawEntry] = field(default_factory=dict)
    past: list[RawEntry] = field(default_factory=list)

    def crash(self) -> None:
        self.hand.clear()
        self.past.clear()

    def read(self, limit: int = 2) -> None:
        for stream in self.streams:
            key = self.bench.keys.stream(stream)
            found = self.bench.do(self.bench.redis.xreadgroup(GROUPS[stream], self.name, {key: ">"}, count=limit))
            for _, rows in found or []:
                self._take([RawEntry(stream, P, entry_id, fields) for entry_id, fields in rows])

    def reclaim(self, limit: int = 2) -> None:
        """With a lease of 0: whatever anybody holds, whether it lives or not."""
        for stream in self.streams:
            arguments = [GROUPS[stream], self.name, 0, "-", limit, 1_000_000]
            _, _, *rows = self._call("reclaim", stream, arguments)
            self._take(
                [
                    RawEntry(stream, P, entry_id, dict(zip(flat[0::2], flat[1::2], strict=True)), deliveries)
                    for entry_id, deliveries, flat in rows
                ]
            )

    def renew(self) -> None:
        for stream in self.streams:
            ids = [entry.entry_id for entry in self.hand.values() if entry.stream == stream]
            kept = self._call("renew", stream, [GROUPS[stream], self.name, *ids])
            for entry_id in set(ids) - set(kept):
                del self.hand[entry_id]

    def hand_back(self) -> None:
        for stream in self.streams:
            ids = [entry.entry_id for entry in self.hand.values() if entry.stream == stream]
            self._call("hand_back", stream, [GROUPS[stream], self.name, 0, *ids])
        self.hand.clear()

    def _take(self, entries: Sequence[RawEntry]) -> None:
        self.hand.update({entry.entry_id: entry for entry in entries})
        self.past += entries

    def _call(self, script: str, stream: StreamName, arguments: Sequence[Any]) -> Any:
        return self.bench.do(self.bench.scripts.call(script, [self.bench.keys.stream(stream)], arguments))


def order(entry: RawEntry) -> tuple[int, int]:
    ms, _, sequence = entry.entry_id.partition(b"-")
    return int(ms), int(sequence)


@dataclass
class Look:
    """A review that is decided on and not yet applied."""

    state: ContentState
    decision: Decision | None
    base: int


@dataclass(eq=False)
class Planner(Consumer):
    looks: list[Look] = field(default_factory=list)

    def crash(self) -> None:
        super().crash()
        self.looks.clear()

    def tally(self, entries: Sequence[RawEntry]) -> None:
        """Count these entries; the world outside hears nothing of it but from the hashes."""
        entries = sorted({entry.entry_id: entry for entry in entries}.values(), key=order)
        tally = Tally.empty()
        for entry in entries:
            tally.merge(unpack_views(entry.fields))
        seen_ms = dict.fromkeys((*tally.add, *tally.set), 1)
        ids = [entry.entry_id for entry in entries]
        tallied = self.bench.do(Tallies(self.bench.scripts).apply(P, ids, tally, seen_ms))
        for entry_id in ids if tallied.outcome == "counted" else tallied.stale:
            self.hand.pop(entry_id, None)

    def look(self) -> None:
        cids = self.bench.do(Reviews(self.bench.scripts).claim(P, 10, 0))
        states = self.bench.do(Contents(self.bench.scripts).read(cids)) if cids else []
        for state in states:
            level, base = self.world.level(state.cid), 0
            if level is not None and not state.level and not state.absolute:
                last = self.world.last_count(state.cid)
                base = level.min_counts if last is None else last
            away = state.status not in {"", "idle", "unknown", "forgotten"}
            facts = Facts(state.cid, level, state.count + base)
            self.looks.append(Look(state, None if away else decide(facts, SAMPLE_LEVELS, 0), base))

    def apply(self, look: Look) -> bool:
        """True where the content is known to Redis from now on, with this look's base."""
        reviews, state, decision = Reviews(self.bench.scripts), look.state, look.decision
        if decision is None:
            self.bench.do(reviews.dismiss(P, [(state.cid, state.version)]))
        elif isinstance(decision, Open):
            return self.bench.do(reviews.open(P, [Opening(_move(look, decision), state.version, look.base)]))[0]
        elif isinstance(decision, Rest):
            level = decision.level.content_level
            resting = Resting(
                state.cid, state.version, level, filename_of(state.cid), look.base, decision.band, decision.why
            )
            return self.bench.do(reviews.rest(P, [resting]))[0] != 0
        else:
            self.bench.do(reviews.unknown(P, [(state.cid, state.version)], 600_000, 0))
        return False


def _move(look: Look, decision: Open) -> Move:
    return Move(
        move_id=new_move_id(),
        cid=look.state.cid,
        filename=filename_of(look.state.cid),
        from_level=decision.source.content_level,
        to_level=decision.target.content_level,
        from_path=decision.source.path,
        to_path=decision.target.path,
        count=look.state.count + look.base,
        why=decision.why,
        viewed_at=1,
        planned_at=time.time_ns() // 1_000_000,
    )


@dataclass(eq=False)
class Attempt:
    """`stage` is what was done last: started, placed or confirmed, removed, over."""

    held: Held
    stage: str = "started"


@dataclass(eq=False)
class Mover(Consumer):
    attempts: list[Attempt] = field(default_factory=list)

    def crash(self) -> None:
        super().crash()
        for attempt in self.attempts:
            self._unlock(attempt)
        self.attempts.clear()

    def start(self, entry: RawEntry) -> None:
        message = (Move if entry.stream == "moves" else Retire).parse(entry.fields)
        held = Held(entry.stream, P, entry.entry_id, message)
        (token,) = self.bench.do(Moves(self.bench.scripts).start(entry.stream, P, self.name, [held]))
        self.hand.pop(entry.entry_id, None)
        if token > 0:
            self.attempts.append(Attempt(replace(held, attempt=token)))

    def advance(self, attempt: Attempt) -> None:
        """The next step; the last one again, where there is none."""
        if attempt.held.stream == "moves":
            self._place(attempt) if attempt.stage == "started" else self.finish(attempt)
        elif attempt.stage == "started":
            self._confirm(attempt)
        elif attempt.stage == "confirmed":
            self._remove(attempt)
        else:
            self.settle(attempt)

    def due(self) -> None:
        self.bench.do(Moves(self.bench.scripts).due(P, 100))

    def _place(self, attempt: Attempt) -> None:
        move = attempt.held.message
        if (move.from_level, move.filename) not in self.world.files:
            self.bury(attempt, "source missing")
            return
        self.world.files[move.to_level, move.filename] = move.cid
        attempt.stage = "placed"

    def finish(self, attempt: Attempt) -> None:
        """Whatever the stage, as a mover that was stopped before it knew better."""
        if attempt.stage == "placed":
            move = attempt.held.message
            fields = {name: getattr(move, name) for name in Move.__dataclass_fields__ if name != "cid"}
            placed = a_placed(move.cid, **fields, mover=self.name, attempts=attempt.held.attempt, method="link")
            self.bench.do(Moves(self.bench.scripts).finish(P, [(attempt.held, placed)]))

    def _confirm(self, attempt: Attempt) -> None:
        order_ = attempt.held.message
        source = (order_.from_level, order_.filename)
        if (order_.to_level, order_.filename) not in self.world.files:
            self.bury(attempt, "placed missing")
        elif source not in self.world.files:
            attempt.stage = "removed"
        elif source in self.world.locks:
            self.postpone(attempt)
        elif not self.bench.do(Moves(self.bench.scripts).current([attempt.held]))[0]:
            attempt.stage = "over"
        elif self.world.rows.get(order_.cid) != order_.to_level:
            self.bury(attempt, "not committed")
        else:
            self.world.locks[source] = attempt
            attempt.stage = "confirmed"

    def _remove(self, attempt: Attempt) -> None:
        order_ = attempt.held.message
        if (order_.to_level, order_.filename) in self.world.files:
            self.world.files.pop((order_.from_level, order_.filename), None)
            attempt.stage = "removed"
        self._unlock(attempt)

    def settle(self, attempt: Attempt) -> None:
        if attempt.stage == "removed":
            self.bench.do(Moves(self.bench.scripts).settle(P, [attempt.held]))

    def postpone(self, attempt: Attempt) -> None:
        self._unlock(attempt)
        self.bench.do(Moves(self.bench.scripts).postpone(attempt.held, 0, "disk full"))
        attempt.stage = "over" if attempt.held.stream == "retires" else attempt.stage

    def bury(self, attempt: Attempt, reason: str) -> None:
        self._unlock(attempt)
        self.bench.do(DeadLetters(self.bench.scripts).bury(attempt.held, DeadLetterError(reason)))
        attempt.stage = "over" if attempt.held.stream == "retires" else attempt.stage

    def _unlock(self, attempt: Attempt) -> None:
        self.world.locks = {file: owner for file, owner in self.world.locks.items() if owner is not attempt}


@dataclass(eq=False)
class Recorder(Consumer):
    verdicts: list[tuple[RawEntry, Placed, Verdict]] = field(default_factory=list)

    def crash(self) -> None:
        super().crash()
        self.verdicts.clear()

    def commit(self, entries: Sequence[RawEntry]) -> None:
        """MySQL alone: whoever dies now has told Redis nothing."""
        for entry in entries:
            placed = Placed.parse(entry.fields)
            self.verdicts.append((entry, placed, self.world.commit(placed)))

    def follow(self, items: Sequence[tuple[RawEntry, Placed, Verdict]]) -> None:
        for entry, placed, verdict in items:
            self.hand.pop(entry.entry_id, None)
            if verdict in {"commit", "record", "committed"}:
                commitment = Commitment(entry.entry_id, retire_of(placed))
                self.bench.do(Commits(self.bench.scripts).commit(P, [commitment]))
            else:
                held = Held("placed", P, entry.entry_id, placed, placed.attempts)
                letter = DeadLetterError("catalog conflict", verdict)
                self.bench.do(DeadLetters(self.bench.scripts).bury(held, letter, fenced=False))
