"""Running a command: signals set an event, an expected error is one line on stderr."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

import typer
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.catalog import CatalogDownError, CatalogRefusedError
from shared.errors import ReshelveError, RetryError, StopServiceError

INTERRUPTED = 130
_FAILED = 1
_MISCONFIGURED = 2
_NO_SUCH_TABLE = "1146"
_MYSQL_UNREACHABLE = "mysql unreachable"
"""The migration's reason."""


def run(work: Callable[[asyncio.Event], Awaitable[int]]) -> None:
    """Run `work`, whose event SIGINT and SIGTERM set, and exit with its code."""
    try:
        code = asyncio.run(_with_signals(work))
    except (ReshelveError, RedisError) as error:
        fail(explained(error), _MISCONFIGURED if isinstance(error, StopServiceError) else _FAILED)
    except KeyboardInterrupt:  # before the signal handlers were there
        code = INTERRUPTED
    raise typer.Exit(code)


def run_interruptibly(work: Callable[[], Awaitable[int]]) -> None:
    """Run `work`, which SIGINT and SIGTERM cancel: it must be safe to break off anywhere."""
    run(lambda stop: or_interrupted(work(), stop))


async def or_interrupted(work: Awaitable[int], stop: asyncio.Event) -> int:
    """The code of `work`, or INTERRUPTED when `stop` came first; `work` is cancelled then and has ended."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return INTERRUPTED
    finally:
        for task in (working, stopping):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def fail(line: str, code: int = _FAILED) -> NoReturn:
    """Say on stderr what is wrong and exit."""
    print(f"reshelve: {line}", file=sys.stderr)
    raise typer.Exit(code)


async def _with_signals(work: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # A script's shell puts a command in the background deaf to SIGINT: we hear it all the same. nohup is obeyed.
    closed = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    for signum in (signal.SIGTERM, signal.SIGINT, *closed):
        loop.add_signal_handler(signum, stop.set)
    return await work(stop)


def explained(error: ReshelveError | RedisError) -> str:
    """An error as one line with its cause and its remedy."""
    if isinstance(error, CatalogDownError) or (isinstance(error, RetryError) and error.reason == _MYSQL_UNREACHABLE):
        return f"MySQL does not let us work: {error.detail}: start it, or correct RESHELVE_MYSQL_URL"
    if isinstance(error, CatalogRefusedError) and error.detail.startswith(_NO_SUCH_TABLE):
        return "the catalog has no tables yet: run `reshelve migrate`"
    if isinstance(error, AuthenticationError):
        return f"Redis refuses the login: {error}: correct the user and password in RESHELVE_REDIS_URL"
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return f"Redis does not answer: {str(error).rstrip('.')}: start it, or correct RESHELVE_REDIS_URL"
    if isinstance(error, RedisError):
        return f"Redis refuses: {error}: look at its log"
    return str(error)
