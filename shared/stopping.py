"""Stopping: the first SIGTERM or SIGINT asks for it, a second one hurries, and there is a bound in any case."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any

from shared.log import Log

BOUND_S = 10.0
"""How long a service may take to finish or hand back what is in hand, before it is hurried."""
_HURRY_S = 3.0
"""How long a hurried service may take. It may hang in a system call, and a thread in one cannot be ended."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Python's own handlers, not the loop's: those end before the process does, and a late SIGTERM would kill it."""

    def __init__(self) -> None:
        """Takes effect with `install`, in the main thread."""
        self._received = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.hurried = False

    def install(self) -> None:
        """From now on a signal is remembered until `attach`."""
        for signum in _SIGNALS:
            signal.signal(signum, self._receive)

    def attach(self, stop: asyncio.Event) -> None:
        """Set the event, which belongs to the running loop, on the first signal."""
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._pass_on()

    def end(self) -> None:
        """The work is done: no signal changes the exit code any more. A hurried process ends here."""
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
        if self.hurried:
            # A thread that is still at work would be waited for.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    async def bound(self, work: Coroutine[Any, Any, None], log: Log) -> None:
        """Run the work; cancel it when it does not stop in time, or on a second signal. Raises what it raised."""
        task = asyncio.create_task(work)
        hurry = asyncio.create_task(self._until_hurry())
        await asyncio.wait((task, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not task.done():
            self.hurried = True
            log.warning("stopping in a hurry")
            _end_after(_HURRY_S)
        while not task.done():
            task.cancel()
            # Again: Python 3.11's wait_for, by which the Redis client sends, now and then swallows a cancellation.
            await asyncio.wait((task,), timeout=_HURRY_S / 2)
        if not task.cancelled():
            task.result()

    async def _until_hurry(self) -> None:
        await self._stop.wait()
        try:
            async with asyncio.timeout(BOUND_S):
                await self._hurry.wait()
        except TimeoutError:
            return

    def _receive(self, _signum: int, _frame: FrameType | None) -> None:
        self._received += 1
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        if self._received:
            self._stop.set()
        if self._received > 1:
            self._hurry.set()


def _end_after(seconds: float) -> None:
    """From a thread of its own: the event loop may hang too."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()
