"""Retires: from the order to the settled content."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor

from services.mover.breaker import doors_of
from services.mover.fencing import StaleError
from services.mover.handling import BATCH, Handling, Work
from services.mover.markers import Markers
from services.mover.place import check_roots
from services.mover.removing import Removing
from services.mover.retire import lock_source
from services.mover.roots import Roots
from shared import metrics
from shared.batching import Batcher
from shared.catalog import Catalog
from shared.errors import DeadLetterError, ReshelveError, RetryError
from shared.log import info_each
from shared.messages import Retire
from shared.patience import StoppedError
from shared.state.moves import CAME_BACK, Held, RawEntry

NOT_COMMITTED = "not committed"
_STALE = "stale"


class Retiring:
    """Handles retires: many together, and each by itself that is not straightforward."""

    def __init__(self, handling: Handling, roots: Roots, markers: Markers, catalog: Catalog, pool: Executor) -> None:
        """File work runs in `pool`; `catalog` has the last word on which copy is the content's."""
        self._handling = handling
        self._roots = roots
        self._markers = markers
        self._catalog = catalog
        self._pool = pool
        moves, name = handling.moves, handling.consumer.name
        self._start: Callable[[Sequence[Held]], Awaitable[Sequence[int]]] = handling.by_partition(
            lambda partition, held: moves.start("retires", partition, name, held),
            lambda held: held.partition,
            0,
            "start",
        )
        self._confirming: Batcher[Held, str] = Batcher(self._confirm_all, BATCH)
        self._settle = handling.by_partition(moves.settle, lambda held: held.partition, gone=0, doing="settle")
        self._settling = Batcher(self._settle, BATCH)

    async def begin(self, entries: Sequence[RawEntry]) -> list[Work]:
        """Start the attempts."""
        return await self._handling.begin(entries, Retire, self._start)

    async def together(self, works: Sequence[Work]) -> list[Work]:
        """Remove the sources that are straightforward, and settle; returns the rest, for `alone`."""
        groups: dict[tuple[str, ...], list[Work]] = defaultdict(list)
        for work in works:
            order = work.held.message
            groups[order.from_level, order.to_level, order.from_path, order.to_path].append(work)
        left = await asyncio.gather(*(self._retire_group(group) for group in groups.values()))
        return [work for of_group in left for work in of_group]

    async def alone(self, work: Work) -> None:
        """Remove the source and settle, or do what the error says is next."""
        entry, held = work
        assert isinstance(held.message, Retire)
        try:
            await self._retire(held, held.message)
        except StaleError as error:
            self._refused(held, str(error))
        except Exception as error:  # noqa: BLE001  # raised again unless it says what is next
            await self.settle_error(entry, held, error)

    async def settle_error(self, entry: RawEntry, held: Held, error: Exception) -> None:
        """Carry out what the error says is next. Raises it where it says nothing of that."""
        outcome = await self._handling.settle_error(entry, held, error)
        metrics.RETIRES.labels(outcome).inc()

    def _refused(self, held: Held, why: str) -> None:
        order = held.message
        self._handling.log.info("refused", cid=order.cid, move_id=order.move_id, attempt=held.attempt, why=why)
        metrics.RETIRES.labels("refused").inc()

    async def _retire_group(self, works: Sequence[Work]) -> Sequence[Work]:
        """Those of the same two levels. One in trouble is left to `alone`, which says what is wrong and keeps count."""
        handling, first = self._handling, works[0].held.message
        assert isinstance(first, Retire)
        if len(works) == 1 or not handling.breakers.closed(doors_of(first)):
            return works
        try:
            check_roots(first, await handling.patiently(lambda: self._roots.covering(first), "read the roots"))
            marked = await handling.patiently(lambda: self._markers.of(first, self._pool), "mark the levels")
            return await self._remove_together(works, marked)
        except (ReshelveError, StoppedError):
            return works

    async def _remove_together(self, works: Sequence[Work], marked: frozenset[str]) -> list[Work]:
        now_ms = time.time_ns() // 1_000_000
        run = asyncio.get_running_loop().run_in_executor
        timely: list[Work] = []
        left: list[Work] = []
        for work in works:
            (timely if _order(work).not_before <= now_ms else left).append(work)
        with Removing(marked=marked) as batch:
            is_locked = await run(self._pool, batch.lock, [_order(work) for work in timely])
            locked = [work for work, is_it in zip(timely, is_locked, strict=True) if is_it]
            left += [work for work, is_it in zip(timely, is_locked, strict=True) if not is_it]
            answers = await self._confirm_all([work.held for work in locked]) if locked else []
            removed = await run(self._pool, batch.remove, [not answer for answer in answers])
        done: list[Work] = []
        unsynced: list[Work] = []
        for work, answer, is_removed in zip(locked, answers, removed, strict=True):
            if answer == _STALE:
                self._refused(work.held, f"attempt {work.held.attempt} is not the latest")
            else:
                removals = done if batch.unsynced is None else unsynced
                (removals if is_removed else left).append(work)
        await self._settle_together(done)
        if batch.unsynced is not None:
            error = batch.unsynced
            await asyncio.gather(*(self.settle_error(work.entry, work.held, error) for work in unsynced))
        return left

    async def _settle_together(self, done: Sequence[Work]) -> None:
        """Where the word cannot be given, the next attempt finds the source gone, and settles."""
        if not done:
            return
        self._handling.breakers.succeeded(doors_of(done[0].held.message))
        try:
            settled = await self._settle([work.held for work in done])
        except StoppedError as error:
            await asyncio.gather(*(self.settle_error(work.entry, work.held, error) for work in done))
            return
        told = []
        for work, how in zip(done, settled, strict=True):
            if how:
                told.append((_order(work), how))
            else:
                self._refused(work.held, f"attempt {work.held.attempt} is not the latest")
        self._tell(told, "removed")

    async def _retire(self, held: Held, order: Retire) -> None:
        handling = self._handling
        early_ms = order.not_before - time.time_ns() // 1_000_000
        if early_ms > 0:
            raise RetryError("not yet", f"{early_ms} ms early")
        check_roots(order, await handling.patiently(lambda: self._roots.covering(order), "read the roots"))
        with handling.through(doors_of(order), order.move_id):
            removed = await self._remove(held, order)
        settled = await self._settling.submit(held)
        if not settled:
            raise StaleError(f"attempt {held.attempt} is not the latest")
        self._tell([(order, settled)], "removed" if removed else "gone already")

    def _tell(self, settled: Sequence[tuple[Retire, int]], outcome: str) -> None:
        for order, how in settled:
            if how == CAME_BACK:
                metrics.FLIP_FLOPS.labels(order.from_level, order.to_level).inc()
        metrics.RETIRES.labels(outcome).inc(len(settled))
        info_each(
            self._handling.log,
            "settled",
            [{"cid": order.cid, "move_id": order.move_id, "target": order.to_level} for order, _ in settled],
        )

    async def _remove(self, held: Held, order: Retire) -> bool:
        """Lock, ask, unlink: a mover that is stopped in between holds the lock, so nobody goes on past it."""
        loop = asyncio.get_running_loop()
        marked = await self._handling.patiently(lambda: self._markers.of(order, self._pool), "mark the levels")
        source = await loop.run_in_executor(self._pool, lambda: lock_source(order, marked=marked))
        if source is None:
            return False
        with source:
            answer = await self._confirming.submit(held)
            if answer == _STALE:
                raise StaleError(f"attempt {held.attempt} is not the latest")
            if answer:
                raise DeadLetterError(NOT_COMMITTED, answer)
            await loop.run_in_executor(self._pool, source.remove)
        return True

    async def _confirm_all(self, held: Sequence[Held]) -> list[str]:
        return await self._handling.patiently(lambda: self._confirm(held), "confirm the commit")

    async def _confirm(self, held: Sequence[Held]) -> list[str]:
        """Per item what speaks against it; an empty text where the attempt is current and MySQL names the copy."""
        places, current = await asyncio.gather(
            self._catalog.places([item.message.cid for item in held]), self._handling.current(held)
        )
        answers = []
        for item, is_current in zip(held, current, strict=True):
            place, order = places.get(item.message.cid), item.message
            if not is_current:
                answers.append(_STALE)
            elif place is None:
                answers.append(
                    "the catalog no longer tracks the content: remove the source by hand if it is not wanted"
                )
            elif place != (order.to_level, order.filename):
                level, filename = place
                answers.append(f"the catalog names {filename!r} on {level}, not the copy on {order.to_level}")
            else:
                answers.append("")
        return answers


def _order(work: Work) -> Retire:
    assert isinstance(work.held.message, Retire)
    return work.held.message
