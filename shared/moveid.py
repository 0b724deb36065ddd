"""Move ids: UUIDv7 (RFC 9562, section 5.7), so that ids sort by the time they were made."""

from __future__ import annotations

import os
import time

_RANDOM_BYTES = 10


def new_move_id() -> str:
    """A new id: 48 bits of milliseconds, version 7, 74 random bits."""
    (move_id,) = new_move_ids(1)
    return move_id


def new_move_ids(number: int) -> list[str]:
    """So many new ids of this millisecond."""
    time_part = f"{time.time_ns() // 1_000_000 & (2**48 - 1):012x}"
    head = f"{time_part[:8]}-{time_part[8:]}-7"
    drawn = os.urandom(_RANDOM_BYTES * number).hex()
    width = 2 * _RANDOM_BYTES
    return [_written(head, drawn[at : at + width]) for at in range(0, width * number, width)]


def _written(head: str, drawn: str) -> str:
    # The variant is the upper two bits of its digit.
    return f"{head}{drawn[:3]}-{'89ab'[int(drawn[3], 16) & 3]}{drawn[4:7]}-{drawn[7:19]}"
