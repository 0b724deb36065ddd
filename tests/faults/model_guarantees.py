"""What must hold after every step of the state machine, looked at from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import orjson

from shared.keys import WORK_STREAMS
from shared.messages import Tally, unpack_views
from tests.faults.model_consumer import Bench
from tests.faults.model_world import ModelWorld, counted
from tests.samples import SAMPLE_LEVELS
from tests.streams import counted as held_as

OPEN_IN: dict[str, set[str]] = {
    "update": {"moves", "later:moves"},
    "moving": {"moves"},
    "done": {"placed"},
    "retiring": {"retires", "later:retires"},
}


@dataclass(frozen=True)
class Sight:
    """Redis at one moment: states, entries as (where, move_id), views that wait, dead letters' cids, reviews."""

    states: Mapping[str, dict[str, str]]
    entries: Mapping[str, Sequence[tuple[str, str]]]
    views: list[Tally]
    dead: set[str]
    reviews: set[str]

    @classmethod
    def of(cls, bench: Bench, cids: Sequence[str]) -> Self:
        keys, pipe = bench.keys, bench.redis.pipeline(transaction=True)
        for cid in cids:
            pipe.hgetall(keys.content(cid))
        pipe.hmget(keys.counts, cids)
        for stream in WORK_STREAMS:
            pipe.xrange(keys.stream(stream))
        pipe.zrange(keys.later, 0, -1)
        pipe.xrange(keys.dead)
        pipe.zrange(keys.review, 0, -1)
        *hashes, counts, views, moves, placed, retires, later, dead, reviews = bench.do(pipe.execute())
        states = {
            cid: {name.decode(): value.decode() for name, value in fields.items()} | held_as(held)
            for cid, fields, held in zip(cids, hashes, counts, strict=True)
        }
        entries: dict[str, list[tuple[str, str]]] = {cid: [] for cid in cids}
        for stream, rows in (("moves", moves), ("placed", placed), ("retires", retires)):
            for _, fields in rows:
                entries[fields[b"cid"].decode()].append((stream, fields[b"move_id"].decode()))
        for member in later:
            stream, *flat = orjson.loads(member)
            fields = dict(zip(flat[0::2], flat[1::2], strict=True))
            entries[fields["cid"]].append((f"later:{stream}", fields["move_id"]))
        waiting = [unpack_views(fields) for _, fields in views]
        return cls(states, entries, waiting, {f[b"f:cid"].decode() for _, f in dead}, {cid.decode() for cid in reviews})

    def check_counts(self, world: ModelWorld, accepted: list[Tally], bases: Mapping[str, int]) -> None:
        """G1: what was counted and what still waits make, in this order, what was accepted."""
        for cid in world.rows:
            have = counted(self.views, cid, int(self.states[cid].get("count", 0)))
            want = counted(accepted, cid, bases.get(cid, 0))
            assert have == want, f"G1: {cid} comes to {have}, accepted were {want}"

    def check_open(self) -> None:
        """G2: at most one relocation of a content is open, and its entry is where the state says."""
        for cid, state in self.states.items():
            entries, status = self.entries[cid], state.get("status", "")
            assert len(entries) <= 1, f"G2: {cid} has {entries}"
            assert bool(entries) == (status in OPEN_IN), f"G2: {cid} is {status!r} with {entries}"
            for where, move_id in entries:
                assert where in OPEN_IN[status], f"G2: {cid} is {status!r}, but its entry is in {where}"
                assert move_id == state["move_id"], f"G2: {cid} works on {state['move_id']}, its entry is of {move_id}"
            assert status != "failed" or cid in self.dead, f"G6: {cid} failed without a dead letter"

    def is_quiet(self, world: ModelWorld) -> bool:
        return not self.views and not any(self.entries.values()) and not self.reviews & world.rows.keys()

    def check_rest(self, world: ModelWorld) -> None:
        """G6: whatever was seen is on the level for its count, or is a dead letter."""
        assert not self.views, "G6: views wait for ever"
        assert not any(self.entries.values()), f"G6: entries wait for ever: {self.entries}"
        for cid, level in world.rows.items():
            state = self.states[cid]
            if cid in self.dead or not state:
                continue
            assert state.get("status") == "idle", f"G6: {cid} is {state.get('status')} for ever"
            wanted = SAMPLE_LEVELS.level_for(int(state["count"])).content_level
            assert level == wanted, f"G6: {cid} counts {state['count']} and rests on {level}"
            band = range(int(state.get("lo", -1)), int(state.get("hi", -1)))
            assert int(state["count"]) in band, f"G6: {cid} counts {state['count']}, its band is {band}"
