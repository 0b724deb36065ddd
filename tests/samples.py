"""Messages as the services would write them; each field can be changed by name."""

from __future__ import annotations

from itertools import count
from typing import Any
from zlib import crc32

from shared.levels import Level, Levels
from shared.messages import Move, Placed, Retire
from shared.moveid import new_move_id
from shared.state.moves import Commitment

BRONZE = Level("bronze", 0, 999, "/levels/bronze")
SILVER = Level("silver", 1000, 1999, "/levels/silver")
GOLD = Level("gold", 2000, 3001, "/levels/gold")
SAMPLE_LEVELS = Levels([BRONZE, SILVER, GOLD])


def cids_of(partition: int, number: int, partitions: int = 4) -> list[str]:
    """cids of one partition."""
    found: list[str] = []
    for n in count():
        if len(found) == number:
            break
        if crc32(f"c{n}".encode()) % partitions == partition:
            found.append(f"c{n}")
    return found


def _order(cid: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "move_id": new_move_id(),
        "cid": cid,
        "filename": f"dir/{cid}.mp4",
        "from_level": "bronze",
        "to_level": "silver",
        "from_path": "/levels/bronze",
        "to_path": "/levels/silver",
        "count": 1500,
        "why": "count 1500 belongs on silver (1000-1999), not bronze (0-999)",
        "viewed_at": 1_700_000_000_000,
        "planned_at": 1_700_000_000_100,
    } | changes


def _word(cid: str, changes: dict[str, Any]) -> dict[str, Any]:
    return (
        _order(cid, {})
        | {
            "bytes": 4096,
            "digest": "ab" * 32,
            "method": "copy",
            "seconds": 0.25,
            "mover": "host-1-abc",
            "attempts": 1,
            "source_id": "11:4096:1",
            "target_id": "12:4096:1",
            "placed_at": 1_700_000_000_200,
        }
        | changes
    )


def a_move(cid: str, **changes: Any) -> Move:
    return Move(**_order(cid, changes))


def a_placed(cid: str, **changes: Any) -> Placed:
    return Placed(**_word(cid, changes))


def a_retire(cid: str, **changes: Any) -> Retire:
    return Retire(**({"not_before": 0} | _word(cid, changes)))


def retire_of(placed: Placed, not_before: int = 0) -> Retire:
    """The order that follows from the word."""
    return Retire(**{name: getattr(placed, name) for name in Placed.__struct_fields__}, not_before=not_before)


def commitment_of(entry_id: bytes, placed: Placed) -> Commitment:
    """What the recorder tells Redis of the word, once it is committed."""
    body = placed.wire()[-1].encode()
    return Commitment(entry_id, placed.cid, placed.move_id, placed.to_level, body)
