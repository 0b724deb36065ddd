"""Moves: from the command to the word that a copy is placed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor

from services.mover.breaker import doors_of
from services.mover.fencing import IsCurrent, StaleError, asked_of
from services.mover.handling import BATCH, Handling, Work
from services.mover.markers import Markers
from services.mover.place import Placement, place
from services.mover.placing import Placing
from services.mover.roots import Roots
from shared import metrics
from shared.batching import Batcher
from shared.errors import ReshelveError
from shared.log import info_each
from shared.messages import Move, Placed
from shared.patience import StoppedError
from shared.state.moves import Held, RawEntry


class Moving:
    """Handles moves: many small files together, each other one by itself."""

    def __init__(self, handling: Handling, roots: Roots, markers: Markers, pool: Executor) -> None:
        """File work runs in `pool`."""
        self._handling = handling
        self._roots = roots
        self._markers = markers
        self._pool = pool
        moves, name = handling.moves, handling.consumer.name
        self._start: Callable[[Sequence[Held]], Awaitable[Sequence[int]]] = handling.by_partition(
            lambda partition, held: moves.start("moves", partition, name, held), lambda held: held.partition, 0, "start"
        )
        self._finish = handling.by_partition(moves.finish, lambda item: item[0].partition, gone=False, doing="finish")
        self._finishing = Batcher(self._finish, BATCH)
        self._confirming: Batcher[Held, bool] = Batcher(handling.current, BATCH)

    async def begin(self, entries: Sequence[RawEntry]) -> list[Work]:
        """Start the attempts."""
        return await self._handling.begin(entries, Move, self._start)

    async def together(self, works: Sequence[Work]) -> list[Work]:
        """Place and finish what is small and straightforward; returns the rest, for `alone`."""
        groups: dict[tuple[str, ...], list[Work]] = defaultdict(list)
        for work in works:
            move = work.held.message
            groups[move.from_level, move.to_level, move.from_path, move.to_path].append(work)
        left = await asyncio.gather(*(self._place_group(group) for group in groups.values()))
        return [work for of_group in left for work in of_group]

    async def alone(self, work: Work) -> None:
        """Place the file and finish, or do what the error says is next."""
        entry, held = work
        assert isinstance(held.message, Move)
        with metrics.MOVES_IN_PROGRESS.track_inprogress():
            try:
                await self._place(held, held.message)
            except StaleError as error:
                self._refused(held, held.message, "", str(error))
            except Exception as error:  # noqa: BLE001  # raised again unless it says what is next
                await self.settle_error(entry, held, error)

    async def settle_error(self, entry: RawEntry, held: Held, error: Exception) -> None:
        """Carry out what the error says is next. Raises it where it says nothing of that."""
        outcome = await self._handling.settle_error(entry, held, error)
        metrics.MOVES.labels(outcome, "").inc()

    async def _place_group(self, works: Sequence[Work]) -> Sequence[Work]:
        """Those of the same two levels. One in trouble is left to `alone`, which says what is wrong and keeps count."""
        handling, first = self._handling, _move_of(works[0].held)
        if len(works) == 1 or not handling.breakers.closed(doors_of(first)):
            return works
        metrics.MOVES_IN_PROGRESS.inc(len(works))
        try:
            await handling.patiently(lambda: self._roots.check(first), "read the level table")
            marked = await handling.patiently(lambda: self._markers.of(first, self._pool), "mark the levels")
            return await self._place_together(works, marked)
        except (ReshelveError, StoppedError):
            return works
        finally:
            metrics.MOVES_IN_PROGRESS.dec(len(works))

    async def _place_together(self, works: Sequence[Work], marked: frozenset[str]) -> list[Work]:
        run = asyncio.get_running_loop().run_in_executor
        began = time.perf_counter()
        with Placing(marked=marked, should_stop=self._handling.stop.is_set) as batch:
            jobs = [(_move_of(work.held), work.held.attempt) for work in works]
            is_ready = await run(self._pool, batch.prepare, jobs)
            ready = [work for work, is_it in zip(works, is_ready, strict=True) if is_it]
            left = [work for work, is_it in zip(works, is_ready, strict=True) if not is_it]
            current = await self._handling.current([work.held for work in ready])
            placements = await run(self._pool, batch.publish, current)
        seconds = time.perf_counter() - began
        done = []
        for work, is_current, placement in zip(ready, current, placements, strict=True):
            if not is_current:
                self._refuse_stale(work.held)
            elif placement is None:
                left.append(work)
            else:
                done.append((work, self._word(work.held, placement, seconds), placement))
        await self._finish_together(done, seconds)
        lost = [(works[number], error) for number, error in batch.unsynced.items()]
        await asyncio.gather(*(self.settle_error(work.entry, work.held, error) for work, error in lost))
        return [work for work in left if all(work is not unsynced for unsynced, _ in lost)]

    def _refuse_stale(self, held: Held) -> None:
        self._refused(held, _move_of(held), "", f"attempt {held.attempt} is not the latest")

    async def _finish_together(self, done: Sequence[tuple[Work, Placed, Placement]], seconds: float) -> None:
        """Tell the recorder. What was placed stands: where the word cannot be given, the next attempt adopts it."""
        if not done:
            return
        self._handling.breakers.succeeded(doors_of(done[0][0].held.message))
        try:
            finished = await self._finish([(work.held, placed) for work, placed, _ in done])
        except StoppedError as error:
            await asyncio.gather(*(self.settle_error(work.entry, work.held, error) for work, _, _ in done))
            return
        told = []
        for (work, _, placement), is_finished in zip(done, finished, strict=True):
            if is_finished:
                told.append((_move_of(work.held), placement))
            else:
                # Another attempt took over; it adopts what stands on the target, so that must stay.
                self._refused(work.held, _move_of(work.held), placement.method, "another attempt took over")
        self._tell(told, seconds)

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
        placed = self._word(held, placement, seconds)
        is_finished = await self._finishing.submit((held, placed))
        if is_finished:
            self._tell([(move, placement)], seconds)
        else:
            # As in a batch, what stands on the target stays.
            self._refused(held, move, placement.method, "another attempt took over")

    def _tell(self, placed: Sequence[tuple[Move, Placement]], seconds: float) -> None:
        """Of moves between the same two levels."""
        if not placed:
            return
        move, _ = placed[0]
        for method, number in Counter(placement.method for _, placement in placed).items():
            metrics.MOVES.labels("placed", method).inc(number)
        moved_bytes = sum(placement.bytes for _, placement in placed)
        metrics.MOVED_BYTES.labels(move.from_level, move.to_level).inc(moved_bytes)
        rounded = round(seconds, 6)
        lines = []
        for move, placement in placed:
            metrics.MOVE_SECONDS.observe(seconds)
            lines.append(
                {
                    "cid": move.cid,
                    "move_id": move.move_id,
                    "target": move.to_level,
                    "method": placement.method,
                    "bytes": placement.bytes,
                    "seconds": rounded,
                }
            )
        info_each(self._handling.log, "placed", lines)

    def _run(self, held: Held, move: Move, marked: frozenset[str], is_current: IsCurrent) -> Placement:
        stop = self._handling.stop
        return place(move, held.attempt, should_stop=stop.is_set, is_current=is_current, marked=marked)

    def _refused(self, held: Held, move: Move, method: str, why: str) -> None:
        self._handling.log.info("refused", cid=move.cid, move_id=move.move_id, attempt=held.attempt, why=why)
        metrics.MOVES.labels("refused", method).inc()

    def _word(self, held: Held, placement: Placement, seconds: float) -> Placed:
        return _placed(_move_of(held), placement, seconds, self._handling.consumer.name, held.attempt)


def _move_of(held: Held) -> Move:
    assert isinstance(held.message, Move)
    return held.message


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
