"""Mover and recorder one script at a time: the same checks in the same order as services/*, and anything in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.catalog.commits import Verdict
from shared.errors import DeadLetterError
from shared.messages import Move, Placed, Retire
from shared.state.moves import Commits, DeadLetters, Held, Moves, RawEntry
from tests.faults.model_consumer import Consumer, P
from tests.samples import a_placed, commitment_of

_LONG_AGO_MS = 1_000_000


@dataclass(eq=False)
class Attempt:
    """`started` orders those of all movers. `stage` was done last: started, placed or confirmed, removed, over."""

    held: Held
    started: int
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
            tokens = self.world.tokens
            last = tokens.get((entry.stream, message.move_id), 0)
            assert token > last, f"fencing: attempt {token} of {message.move_id} was handed out after {last}"
            tokens[entry.stream, message.move_id] = token
            self.attempts.append(Attempt(held._replace(attempt=token), next(self.world.clock)))

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

    def _took(self, attempt: Attempt, did: bool) -> None:
        """Whatever a script did for an attempt, it did for the latest one."""
        held = attempt.held
        latest = self.world.tokens[held.stream, held.message.move_id]
        assert not did or held.attempt == latest, f"fencing: the word of {held} was taken, the latest is {latest}"

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
            fields = {name: getattr(move, name) for name in Move.__struct_fields__ if name != "cid"}
            placed = a_placed(move.cid, **fields, mover=self.name, attempts=attempt.held.attempt, method="link")
            (did,) = self.bench.do(Moves(self.bench.scripts).finish(P, [(attempt.held, placed)]))
            self._took(attempt, did)

    def _confirm(self, attempt: Attempt) -> None:
        order_ = attempt.held.message
        source = (order_.from_level, order_.filename)
        if (order_.to_level, order_.filename) not in self.world.files:
            self.bury(attempt, "placed missing")
        elif source not in self.world.files:
            attempt.stage = "removed"
        elif source in self.world.locks:
            self.postpone(attempt)
        elif not self.bench.do(Moves(self.bench.scripts).current(P, [attempt.held]))[0]:
            attempt.stage = "over"
        elif self.world.rows.get(order_.cid) != order_.to_level:
            self.bury(attempt, "not committed")
        else:
            self.world.locks[source] = attempt
            attempt.stage = "confirmed"

    def _remove(self, attempt: Attempt) -> None:
        order_ = attempt.held.message
        source = (order_.from_level, order_.filename)
        if self.world.locks.get(source) is not attempt:
            self.bury(attempt, "source changed")
        elif (order_.to_level, order_.filename) in self.world.files:
            self.world.files.pop(source, None)
            attempt.stage = "removed"
        self._unlock(attempt)

    def settle(self, attempt: Attempt) -> None:
        if attempt.stage == "removed":
            (did,) = self.bench.do(Moves(self.bench.scripts).settle(P, [attempt.held]))
            self._took(attempt, bool(did))

    def postpone(self, attempt: Attempt) -> None:
        """Due at once, in the order of the postponing even within a millisecond: a search must find the same again."""
        self._unlock(attempt)
        wait_ms = next(self.world.clock) - _LONG_AGO_MS
        self._took(attempt, self.bench.do(Moves(self.bench.scripts).postpone(attempt.held, wait_ms, "disk full")))
        attempt.stage = "over" if attempt.held.stream == "retires" else attempt.stage

    def withdraw(self, attempt: Attempt) -> None:
        """The level table has changed: the attempt is not to place anything."""
        if (attempt.held.stream, attempt.stage) == ("moves", "started"):
            self._took(attempt, self.bench.do(Moves(self.bench.scripts).withdraw(attempt.held, 0)))

    def bury(self, attempt: Attempt, reason: str = "disk on fire") -> None:
        self._unlock(attempt)
        self._took(attempt, self.bench.do(DeadLetters(self.bench.scripts).bury(attempt.held, DeadLetterError(reason))))
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
                commitment = commitment_of(entry.entry_id, placed)
                self.bench.do(Commits(self.bench.scripts).commit(P, [commitment], 0))
            else:
                held = Held("placed", P, entry.entry_id, placed, placed.attempts)
                letter = DeadLetterError("catalog conflict", verdict)
                self.bench.do(DeadLetters(self.bench.scripts).bury(held, letter, fenced=False))
