"""Retires: from the order to the settled content."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor

from services.mover.breaker import doors_of
from services.mover.fencing import StaleError
from services.mover.handling import BATCH, Handling
from services.mover.markers import Markers
from services.mover.place import check_roots
from services.mover.retire import lock_source
from services.mover.roots import Roots
from shared import metrics
from shared.batching import Batcher
from shared.catalog import Catalog
from shared.errors import DeadLetterError, RetryError
from shared.messages import Retire
from shared.state.moves import CAME_BACK, Held, RawEntry

NOT_COMMITTED = "not committed"
_STALE = "stale"


class Retiring:
    """Handles one retire at a time for whoever calls; calls that come together share their questions to the servers."""

    def __init__(self, handling: Handling, roots: Roots, markers: Markers, catalog: Catalog, pool: Executor) -> None:
        """File work runs in `pool`; `catalog` has the last word on which copy is the content's."""
        self._handling = handling
        self._roots = roots
        self._markers = markers
        self._catalog = catalog
        self._pool = pool
        moves, name = handling.moves, handling.consumer.name
        self._starting: Batcher[Held, int] = handling.by_partition(
            lambda partition, held: moves.start("retires", partition, name, held),
            lambda held: held.partition,
            0,
            "start",
        )
        self._confirming: Batcher[Held, str] = Batcher(self._confirm_all, BATCH)
        self._settling = handling.by_partition(moves.settle, lambda held: held.partition, gone=0, doing="settle")

    async def handle(self, entry: RawEntry) -> None:
        """Remove the source and settle, or do what the error says is next."""
        held = await self._handling.decode(entry, Retire)
        if held is not None:
            held = await self._handling.start(held, self._starting)
        if held is None:
            return
        assert isinstance(held.message, Retire)
        try:
            await self._retire(held, held.message)
        except StaleError as error:
            order = held.message
            self._handling.log.info(
                "refused", cid=order.cid, move_id=order.move_id, attempt=held.attempt, why=str(error)
            )
            metrics.RETIRES.labels("refused").inc()
        except Exception as error:  # noqa: BLE001  # raised again unless it says what is next
            outcome = await self._handling.settle_error(entry, held, error)
            metrics.RETIRES.labels(outcome).inc()

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
        if settled == CAME_BACK:
            metrics.FLIP_FLOPS.labels(order.from_level, order.to_level).inc()
        metrics.RETIRES.labels("removed" if removed else "gone already").inc()
        handling.log.info("settled", cid=order.cid, move_id=order.move_id, target=order.to_level)

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
        rows, current = await asyncio.gather(
            self._catalog.rows([item.message.cid for item in held]), self._handling.moves.current(held)
        )
        answers = []
        for item, is_current in zip(held, current, strict=True):
            row, order = rows.get(item.message.cid), item.message
            if not is_current:
                answers.append(_STALE)
            elif row is None:
                answers.append(
                    "the catalog no longer tracks the content: remove the source by hand if it is not wanted"
                )
            elif (row.level, row.filename) != (order.to_level, order.filename):
                answers.append(f"the catalog names {row.filename!r} on {row.level}, not the copy on {order.to_level}")
            else:
                answers.append("")
        return answers
