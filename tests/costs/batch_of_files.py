"""Run under strace: `python -m tests.costs.batch_of_files place|retire SOURCE TARGET NUMBER` handles one batch.

What stands in SOURCE is `0` to NUMBER - 1; a retire's copies were placed by a run of `place` before.
"""

from __future__ import annotations

import sys
from pathlib import Path

from services.mover.identity import file_id
from services.mover.placing import Placing
from services.mover.removing import Removing
from shared.messages import Move, Retire


def move_of(number: int, source: str, target: str) -> Move:
    """The content, its file and the move are named by the number."""
    return Move(
        move_id=f"0-{number}",
        cid=str(number),
        filename=str(number),
        from_level="bronze",
        to_level="silver",
        from_path=source,
        to_path=target,
        count=1,
        why="",
        viewed_at=0,
        planned_at=0,
    )


def _retire(number: int, source: str, target: str) -> Retire:
    move = move_of(number, source, target)
    return Retire(
        **{name: getattr(move, name) for name in Move.__struct_fields__},
        bytes=0,
        digest="",
        method="copy",
        seconds=0,
        mover="",
        attempts=1,
        source_id=file_id((Path(source) / move.filename).stat()),
        target_id=file_id((Path(target) / move.filename).stat()),
        placed_at=0,
        not_before=0,
    )


def _place(source: str, target: str, number: int) -> int:
    with Placing(marked=(), should_stop=lambda: False) as batch:
        batch.prepare([(move_of(one, source, target), 1) for one in range(number)])
        return sum(placement is not None for placement in batch.publish([True] * number))


def _remove(source: str, target: str, number: int) -> int:
    orders = [_retire(one, source, target) for one in range(number)]
    with Removing(marked=()) as batch:
        batch.lock(orders)
        return sum(batch.remove([True] * number))


if __name__ == "__main__":
    what, source, target, number = sys.argv[1:]
    done = (_place if what == "place" else _remove)(source, target, int(number))
    assert done == int(number), f"{done} of {number}"
