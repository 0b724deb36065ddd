"""Backlogs as big as wanted, in the form in which the services leave them: contents, views, placed copies."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
_AT_ONCE = 4000
_LIFE_MS = 60_000
_CONSUMER = "benchmark"

_COPY = """
for i = 1, #KEYS do
  ARGV[2] = ARGV[#ARGV - #KEYS + i]
  redis.call('HSET', KEYS[i], unpack(ARGV, 1, #ARGV - #KEYS))
end
"""
"""KEYS: contents. ARGV: 'filename', any, further fields and values; then a filename for each content."""


async def copy_state(system: System, names: Sequence[str], state: Mapping[str, str | bytes]) -> None:
    """Give each content the hash `state`, with a filename of its own: a million of them in seconds."""
    rest = [part for field, value in state.items() if field != "filename" for part in (field, value)]
    copy = system.scripts.redis.register_script(_COPY)
    for at in range(0, len(names), _AT_ONCE):
        some = names[at : at + _AT_ONCE]
        of_partition: dict[int, list[str]] = defaultdict(list)
        for name in some:
            of_partition[system.scripts.of(name).partition].append(name)
        for partition, cids in of_partition.items():
            prefix = system.scripts.partitions[partition].content_prefix
            await copy(keys=[prefix + cid for cid in cids], args=["filename", "", *rest, *map(filename, cids)])


def filename(cid: str) -> str:
    """As long as a path commonly is."""
    return f"media/{cid[-3:]}/{cid}.mp4"


def resting(system: System, *, below: int | None = None) -> dict[str, str | bytes]:
    """The fields that a review leaves in a content that stays on the lowest level; the band ends at `below`."""
    lowest = next(iter(system.levels))
    hi = lowest.max_counts + 1 if below is None else below
    why = f"count 7 belongs on {lowest.content_level} ({lowest.min_counts}-{lowest.max_counts})"
    fields = {"level": lowest.content_level, "count": 7, "status": "idle", "version": 1, "at": now_ms()}
    return {key: str(value) for key, value in {**fields, "lo": lowest.min_counts, "hi": hi, "why": why}.items()}


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
