"""Backlogs as big as wanted, in the form in which the services leave them: contents, views, placed copies."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from benchmarks.staging import now_ms, open_moves, register
from benchmarks.system import System
from shared.keys import GROUPS
from shared.messages import Move, Placed, Tally
from shared.state.moves import Held, Moves
from shared.state.views import Part, Views

VIEWS_IN_ENTRY = 1000
"""As many as ingest takes in with one NDJSON of 1000, here without the division into partitions."""
_AT_ONCE = 2000
"""A call takes no more values than fit on Lua's stack, and there may be one partition alone."""
_LIFE_MS = 60_000
_CONSUMER = "benchmark"

_COPY = """
local size = #ARGV - #KEYS + 1
local counts = {}
for i = 2, #KEYS do
  redis.call('HSET', KEYS[i], unpack(ARGV, 2, size))
  counts[2 * i - 3], counts[2 * i - 2] = ARGV[size - 1 + i], ARGV[1]
end
redis.call('HSET', KEYS[1], unpack(counts))
"""
"""KEYS: counts; then contents. ARGV: what `counts` holds of each; fields and values of their hashes; then the cids."""


@dataclass(frozen=True)
class State:
    """What Redis holds of a content."""

    fields: Mapping[str, str]
    counts: str


async def copy_state(system: System, names: Sequence[str], state: State) -> None:
    """Give each content this state: a million of them in seconds."""
    flat = [part for pair in state.fields.items() for part in pair]
    copy = system.scripts.redis.register_script(_COPY)
    for at in range(0, len(names), _AT_ONCE):
        for partition, cids in system.scripts.by_partition(names[at : at + _AT_ONCE]).items():
            keys = system.scripts.partitions[partition]
            await copy(keys=[keys.counts, *map(keys.content, cids)], args=[state.counts, *flat, *cids])


def resting(system: System, *, count: int = 7, below: int | None = None) -> State:
    """What a review leaves of a content that stays on the lowest level; the band ends at `below`."""
    lowest = next(iter(system.levels))
    hi = lowest.max_counts + 1 if below is None else below
    why = f"count {count} belongs on {lowest.content_level} ({lowest.min_counts}-{lowest.max_counts})"
    fields = {"level": lowest.content_level, "status": "idle", "version": "1", "why": why}
    return State(fields, f"{count} {now_ms()} {lowest.min_counts} {hi}")


def zipf_tallies(names: Sequence[str], entries: int, seed: int) -> Iterator[Tally]:
    """Sums of `VIEWS_IN_ENTRY` views each; the k-th content of `names` gets a share in proportion to 1/k."""
    chance = random.Random(seed)
    shares = list(accumulate(1 / rank for rank in range(1, len(names) + 1)))
    for _ in range(entries):
        tally = Tally.empty()
        for cid in chance.choices(names, cum_weights=shares, k=VIEWS_IN_ENTRY):
            tally.views(cid, 1)
        yield tally


async def publish(system: System, tallies: Iterator[Tally]) -> int:
    """Put the views on their streams as ingest does, one entry a partition; returns how many views."""
    views, total = Views(system.scripts), 0
    for tally in tallies:
        of_partition: dict[int, Tally] = defaultdict(Tally.empty)
        for cid, number in tally.add.items():
            of_partition[system.scripts.of(cid).partition].views(cid, number)
            total += number
        marker = str(random.getrandbits(64))
        await views.publish({p: [Part(marker, _LIFE_MS, part.pack())] for p, part in of_partition.items()})
    return total


async def place_all(system: System, names: Sequence[str]) -> None:
    """Register contents, open a move for each, and finish it as a mover does; no file is touched."""
    await register(system, names)
    await open_moves(system, names)
    moves = Moves(system.scripts)
    for keys in system.scripts.partitions:
        stream = keys.stream("moves")
        while True:
            rows: Any = await system.scripts.redis.xreadgroup(GROUPS["moves"], _CONSUMER, {stream: ">"}, count=250)
            if not rows:
                break
            (_, entries), *_ = rows.items() if isinstance(rows, dict) else rows
            held = [Held("moves", keys.partition, entry_id, Move.parse(fields)) for entry_id, fields in entries]
            attempts = await moves.start("moves", keys.partition, _CONSUMER, held)
            done = [
                (Held("moves", keys.partition, item.entry_id, item.message, attempt), _placed(item.message))
                for item, attempt in zip(held, attempts, strict=True)
            ]
            assert all(await moves.finish(keys.partition, done))


def _placed(move: object) -> Placed:
    assert isinstance(move, Move)
    given = {name: getattr(move, name) for name in Move.__struct_fields__}
    return Placed(
        **given,
        bytes=4096,
        digest="",
        method="link",
        seconds=0.001,
        mover="benchmark-1",
        attempts=1,
        source_id="1:4096:1",
        target_id="1:4096:1",
        placed_at=now_ms(),
    )
