"""What a mover takes at a time: many entries while they are small and straightforward, else what it can start now."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.mover.copying import HandedBackError
from services.mover.handling import Work
from shared import metrics
from shared.consume import Consumer
from shared.keys import StreamName
from shared.patience import StoppedError
from shared.state.moves import Held, RawEntry

MOST = 512
"""So many entries at most are taken as one batch: beyond that, a batch takes longer and each of them costs no less."""
_AT_ONCE = 2
"""Batches of that size: one is with the files while the other is with Redis."""
_DESCRIPTORS_EACH = 4
_DESCRIPTORS_KEPT = 256


class Handler(Protocol):
    """What moves and retires have in common here."""

    async def begin(self, entries: Sequence[RawEntry]) -> list[Work]: ...
    async def together(self, works: Sequence[Work]) -> list[Work]: ...
    async def alone(self, work: Work) -> None: ...
    async def settle_error(self, entry: RawEntry, held: Held, error: Exception) -> None: ...


def most_together() -> int:
    """How many entries a batch may have with the descriptors that this process may open: it takes all it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return MOST
    return max(1, min(MOST, (hard - _DESCRIPTORS_KEPT) // (_AT_ONCE * _DESCRIPTORS_EACH)))


class Hands:
    """Reads only what can be started now.

    Entries are handled in batches; what a batch leaves, such as a large file, is then handled alone, `concurrency` of
    those at a time. A mover must not sit on a hundred large files while others are idle, and only a batch tells their
    size: so batches begin small, grow fourfold while they leave nothing, and are small again when one leaves some.
    """

    def __init__(
        self, consumer: Consumer, handlers: Mapping[StreamName, Handler], concurrency: int, most: int = MOST
    ) -> None:
        """One handler per stream; `most` is the largest batch."""
        self._consumer = consumer
        self._handlers = handlers
        self._concurrency = concurrency
        self._most = max(most, concurrency)
        self._limit = concurrency
        self._in_batches = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped and empty-handed."""
        try:
            await self._read(stop)
            while running := self._tasks | self._alone:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                self._reap()
        finally:
            running = self._tasks | self._alone
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _read(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            room = self._room()
            if room <= 0:
                await asyncio.wait(self._tasks | self._alone, return_when=asyncio.FIRST_COMPLETED)
            else:
                entries = await self._consumer.take(room)
                if stop.is_set():
                    await self._consumer.hand_back(entries)
                    return
                for stream, handler in self._handlers.items():
                    self._begin(handler, [entry for entry in entries if entry.stream == stream])
                metrics.LAST_SUCCESS.labels("move").set_to_current_time()
            self._reap()

    def _room(self) -> int:
        """How many entries may be taken: none where they would make a batch too small to be worth it."""
        if len(self._alone) >= self._concurrency:
            return 0
        if self._limit > self._concurrency:
            return self._limit if self._in_batches <= (_AT_ONCE - 1) * self._limit else 0
        return self._limit - self._in_batches - len(self._alone)

    def _begin(self, handler: Handler, entries: Sequence[RawEntry]) -> None:
        if entries:
            self._in_batches += len(entries)
            self._tasks.add(asyncio.create_task(self._together(handler, entries)))

    async def _together(self, handler: Handler, entries: Sequence[RawEntry]) -> None:
        left: Sequence[Work] = []
        try:
            works = await handler.begin(entries)
            left = await handler.together(works)
            self._adapt(len(entries), tried=len(works), left=len(left))
        except asyncio.CancelledError:
            raise  # stays in hand: leaving gives it back
        except StoppedError:
            self._consumer.release(entries)
        except BaseException:
            # Not given back: it ends this mover, and would end the next one at once.
            self._consumer.release(entries)
            raise
        else:
            kept = {work.entry.entry_id for work in left}
            self._consumer.release([entry for entry in entries if entry.entry_id not in kept])
        finally:
            self._in_batches -= len(entries)
        await self._begin_alone(handler, left)

    def _adapt(self, taken: int, *, tried: int, left: int) -> None:
        if left > 1 or (left and tried > 1):
            self._limit = self._concurrency
        elif taken * 4 >= self._limit and not left:
            self._limit = min(self._limit * 4, self._most)

    async def _begin_alone(self, handler: Handler, left: Sequence[Work]) -> None:
        """As many as can be started; the others go back for whoever can."""
        room = max(0, self._concurrency - len(self._alone))
        for work in left[:room]:
            self._alone.add(asyncio.create_task(self._handle_alone(handler, work)))
        too_many = HandedBackError("more files than this mover can copy at once")
        for work in left[room:]:
            try:
                await handler.settle_error(work.entry, work.held, too_many)
            finally:
                self._consumer.release([work.entry])

    async def _handle_alone(self, handler: Handler, work: Work) -> None:
        try:
            await handler.alone(work)
        except asyncio.CancelledError:
            raise  # stays in hand: leaving gives it back
        except StoppedError:
            self._consumer.release([work.entry])
        except BaseException:
            self._consumer.release([work.entry])
            raise
        else:
            self._consumer.release([work.entry])

    def _reap(self) -> None:
        """Drop tasks that have ended; an error that none of them could classify ends the service."""
        for tasks in (self._tasks, self._alone):
            for task in [task for task in tasks if task.done()]:
                tasks.discard(task)
                task.result()
