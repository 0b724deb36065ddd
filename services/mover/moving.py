"""Moves: from the command to the word that a copy is placed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor

from services.mover.breaker import doors_of
from services.mover.fencing import IsCurrent, StaleError, asked_of
from services.mover.handling import BATCH, Handling
from services.mover.markers import Markers
from services.mover.place import Placement, place
from services.mover.roots import Roots
from shared import metrics
from shared.batching import Batcher
from shared.messages import Move, Placed
from shared.state.moves import Held, RawEntry


class Moving:
    """Handles one move at a time for whoever calls; calls that come together share their Redis commands."""

    def __init__(self, handling: Handling, roots: Roots, markers: Markers, pool: Executor) -> None:
        """File work runs in `pool`."""
        self._handling = handling
        self._roots = roots
        self._markers = markers
        self._pool = pool
        moves, name = handling.moves, handling.consumer.name
        self._starting: Batcher[Held, int] = handling.by_partition(
            lambda partition, held: moves.start("moves", partition, name, held), lambda held: held.partition, 0, "start"
        )
        self._finishing = handling.by_partition(
            moves.finish, lambda item: item[0].partition, gone=False, doing="finish"
        )
        self._confirming: Batcher[Held, bool] = Batcher(self._current, BATCH)

    async def handle(self, entry: RawEntry) -> None:
        """Place the file and finish, or do what the error says is next."""
        held = await self._handling.decode(entry, Move)
        if held is not None:
            held = await self._handling.start(held, self._starting)
        if held is None:
            return
        assert isinstance(held.message, Move)
        with metrics.MOVES_IN_PROGRESS.track_inprogress():
            try:
                await self._place(held, held.message)
            except StaleError as error:
                self._refused(held, held.message, "", str(error))
            except Exception as error:  # noqa: BLE001  # raised again unless it says what is next
                outcome = await self._handling.settle_error(entry, held, error)
                metrics.MOVES.labels(outcome, "").inc()

    async def _place(self, held: Held, move: Move) -> None:
        handling = self._handling
        await handling.patiently(lambda: self._roots.check(move), "read the level table")
        began = time.perf_counter()
        with handling.through(doors_of(move), move.move_id):
            marked = await handling.patiently(lambda: self._markers.of(move, self._pool), "mark the levels")
            run = asyncio.get_running_loop().run_in_executor
            is_current = asked_of(lambda: self._confirming.submit(held), handling.stop.is_set)
            placement = await run(self._pool, self._run, held, move, marked, is_current)
        seconds = time.perf_counter() - began
        placed = _placed(move, placement, seconds, handling.consumer.name, held.attempt)
        if not await self._finishing.submit((held, placed)):
            # Another attempt took over; it adopts what stands on the target, so that must stay.
            self._refused(held, move, placement.method, "another attempt took over")
            return
        metrics.MOVES.labels("placed", placement.method).inc()
        metrics.MOVED_BYTES.labels(move.from_level, move.to_level).inc(placement.bytes)
        metrics.MOVE_SECONDS.observe(seconds)
        handling.log.info(
            "placed",
            cid=move.cid,
            move_id=move.move_id,
            target=move.to_level,
            method=placement.method,
            bytes=placement.bytes,
            seconds=round(seconds, 6),
        )

    def _run(self, held: Held, move: Move, marked: frozenset[str], is_current: IsCurrent) -> Placement:
        stop = self._handling.stop
        return place(move, held.attempt, should_stop=stop.is_set, is_current=is_current, marked=marked)

    async def _current(self, held: Sequence[Held]) -> list[bool]:
        handling = self._handling
        return await handling.patiently(lambda: handling.moves.current(held), "ask which attempts are current")

    def _refused(self, held: Held, move: Move, method: str, why: str) -> None:
        self._handling.log.info("refused", cid=move.cid, move_id=move.move_id, attempt=held.attempt, why=why)
        metrics.MOVES.labels("refused", method).inc()


def _placed(move: Move, placement: Placement, seconds: float, mover: str, attempts: int) -> Placed:
    return Placed(
        move_id=move.move_id,
        cid=move.cid,
        filename=move.filename,
        from_level=move.from_level,
        to_level=move.to_level,
        from_path=move.from_path,
        to_path=move.to_path,
        count=move.count,
        why=move.why,
        bytes=placement.bytes,
        digest=placement.digest,
        method=placement.method,
        seconds=round(seconds, 6),
        mover=mover,
        attempts=attempts,
        source_id=placement.source_id,
        target_id=placement.target_id,
        viewed_at=move.viewed_at,
        planned_at=move.planned_at,
        placed_at=time.time_ns() // 1_000_000,
    )
