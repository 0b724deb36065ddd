"""Waiting for servers: repeat with backoff until they answer or the service stops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import RedisError

from shared.catalog.connections import CatalogBusyError, CatalogDownError
from shared.log import Log
from shared.redis_client import is_down

_FIRST_S, _LONGEST_S = 0.05, 5.0

T = TypeVar("T")


class StoppedError(Exception):
    """The service stops; what was in hand stays where it is and is taken up again by others."""


def is_outage(error: BaseException) -> bool:
    """True for errors that say nothing about the work, only that a server is away or busy."""
    return isinstance(error, CatalogDownError | CatalogBusyError) or (isinstance(error, RedisError) and is_down(error))


def backoff_s(failures: int) -> float:
    """Exponential with jitter: 25-50 ms after the first failure, up to 5 s."""
    longest = min(_FIRST_S * 2.0 ** min(failures, 16), _LONGEST_S)
    return longest * random.uniform(0.5, 1)  # noqa: S311  # spreads retries, keeps no secret


async def pause(until: asyncio.Event, seconds: float) -> None:
    """Sleep, unless the event (a stop, a wake-up) comes first."""
    with suppress(TimeoutError):
        await asyncio.wait_for(until.wait(), seconds)


async def patiently(action: Callable[[], Awaitable[T]], stop: asyncio.Event, log: Log, doing: str) -> T:
    """The result of `action`, which is repeated through outages: it must be safe to repeat.

    Raises StoppedError when the service stops during an outage, and any error that is not an outage.
    """
    failures = 0
    while True:
        try:
            result = await action()
        except Exception as error:
            if not is_outage(error):
                raise
            if stop.is_set():
                raise StoppedError from error
            if failures == 0:
                log.warning("waiting for a server", doing=doing, error=str(error))
            failures += 1
            await pause(stop, backoff_s(failures))
        else:
            if failures:
                log.info("going on", doing=doing, failures=failures)
            return result


async def until_stopped(*loops: Coroutine[Any, Any, None]) -> None:
    """Run loops side by side until all have ended; the first that fails ends the others.

    A loop that gave up waiting for a server because the service stops has ended well.
    """
    tasks = [asyncio.create_task(_end_well(loop)) for loop in loops]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await _cancel(tasks)
    errors = [error for task in tasks if not task.cancelled() and isinstance(error := task.exception(), Exception)]
    if errors:
        raise ExceptionGroup("loops failed", errors)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Again and again: Python 3.11's wait_for, by which the Redis client sends, now and then swallows a cancellation.

    A TaskGroup cancels once; a loop that missed it would run on for ever beside one that has failed.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        with suppress(asyncio.CancelledError):  # we are ending already
            await asyncio.wait(running, timeout=0.1)


async def _end_well(loop: Coroutine[Any, Any, None]) -> None:
    with suppress(StoppedError):
        await loop
