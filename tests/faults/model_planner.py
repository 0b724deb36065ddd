"""The planner one script at a time: the same steps in the same order as services/planner, and anything in between."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.planner.decide import Decision, Facts, Open, Rest, decide
from shared.messages import Move, Tally, unpack_views
from shared.moveid import new_move_id
from shared.state.contents import Contents
from shared.state.moves import RawEntry
from shared.state.reviews import Due, Opening, Resting, Reviews
from shared.state.views import Tallies
from tests.faults.model_consumer import Consumer, P
from tests.faults.model_world import filename_of
from tests.samples import SAMPLE_LEVELS

REVIEW_LEASE_MS = 600_000
"""Longer than an example: a lease runs out when `fall_due` says so."""


def order(entry: RawEntry) -> tuple[int, int]:
    ms, _, sequence = entry.entry_id.partition(b"-")
    return int(ms), int(sequence)


@dataclass
class Look:
    """A review that is decided on and not yet applied."""

    state: Due
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
        ids = [entry.entry_id for entry in entries]
        tallied = self.bench.do(Tallies(self.bench.scripts).apply(P, ids, tally, seen_ms=1))
        for entry_id in ids if tallied.outcome == "counted" else tallied.stale:
            self.hand.pop(entry_id, None)

    def look(self) -> None:
        # Sorted: in which millisecond each was asked for is chance, and a search must find the same again.
        reviews = Reviews(self.bench.scripts)
        cids = sorted(self.bench.do(reviews.claim(P, 10, REVIEW_LEASE_MS)))
        states = self.bench.do(reviews.look(P, cids)) if cids else []
        for state in states:
            level, base = self.world.level(state.cid), 0
            if level is not None and not state.level and not state.absolute:
                last = self.world.last_count(state.cid)
                base = level.min_counts if last is None else last
            away = state.status not in {"", "idle", "unknown", "forgotten"}
            facts = Facts(state.cid, level, state.count + base)
            self.looks.append(Look(state, None if away else decide(facts, SAMPLE_LEVELS, 0), base))

    def fall_due(self) -> None:
        """The leases of all claimed reviews run out."""
        redis, key = self.bench.redis, self.bench.keys.review
        for cid in self.bench.do(redis.zrange(key, 0, -1)):
            self.bench.do(redis.zadd(key, {cid: 1}, xx=True))

    def _is_fresh(self, look: Look) -> bool:
        """Nobody but tallies touched the content since the look."""
        (now,) = self.bench.do(Contents(self.bench.scripts).read([look.state.cid]))
        return now.version == look.state.version and now.status in {"", "idle", "unknown"}

    def apply(self, look: Look) -> bool:
        """True where the content is known to Redis from now on, with this look's base."""
        reviews, state, decision = Reviews(self.bench.scripts), look.state, look.decision
        if decision is None:
            self.bench.do(reviews.dismiss(P, [(state.cid, state.version)]))
        elif isinstance(decision, Open):
            fresh = self._is_fresh(look)
            (opened,) = self.bench.do(reviews.open(P, [Opening(_move(look, decision), state.version, look.base)]))
            assert fresh or not opened, f"G2: {state.cid} had changed since it was looked at, and yet a move was opened"
            return opened
        elif isinstance(decision, Rest):
            level = decision.level.content_level
            resting = Resting(state.cid, state.version, level, look.base, decision.band, decision.why)
            fresh = self._is_fresh(look)
            (rests,) = self.bench.do(reviews.rest(P, [resting]))
            assert fresh or not rests, f"G6: {state.cid} had changed since it was looked at, and yet was left to rest"
            return rests != 0
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
