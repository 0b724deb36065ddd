"""Room in memory for bodies that are on their way in."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from services.ingest.problems import UnavailableError

_RETRY_AFTER_S = 1


class Room:
    """What all bodies together may take that are being read or parsed.

    Where it is full, bodies are not read on until there is room: their senders wait. One of them at a time is read on
    all the same, or a room full of halves would never empty; so the most that is taken is `limit_bytes` and one body.
    """

    def __init__(self, limit_bytes: int, wait_s: float) -> None:
        """A body that finds no room for `wait_s` is refused."""
        self._limit_bytes = limit_bytes
        self._wait_s = wait_s
        self._taken_bytes = 0
        self._ahead: Share | None = None
        self._freed = asyncio.Event()

    def share(self) -> Share:
        """One body's share, nothing at first."""
        return Share(self)

    @property
    def taken_bytes(self) -> int:
        return self._taken_bytes

    def hold(self, some_bytes: int) -> None:
        """For what is in memory already; it waits for nobody."""
        self._taken_bytes += some_bytes

    async def take(self, share: Share, more_bytes: int) -> None:
        """Raises UnavailableError where there was no room for too long."""
        if not self._may_grow(share, more_bytes):
            try:
                async with asyncio.timeout(self._wait_s):
                    while not self._may_grow(share, more_bytes):
                        await self._freed.wait()
            except TimeoutError:
                raise UnavailableError(
                    "too many bodies are on their way in: nothing was taken in, repeat later",
                    retry_after_s=_RETRY_AFTER_S,
                ) from None
        self._taken_bytes += more_bytes

    def give_back(self, share: Share, some_bytes: int) -> None:
        """The share was let go of."""
        self._taken_bytes -= some_bytes
        if self._ahead is share:
            self._ahead = None
        self._freed.set()
        self._freed.clear()

    def _may_grow(self, share: Share, more_bytes: int) -> bool:
        if self._ahead is share or self._taken_bytes + more_bytes <= self._limit_bytes:
            return True
        if self._ahead is None:
            self._ahead = share
        return self._ahead is share


class Share:
    """Grows with what has really been read, whatever a client said it would send; given back at the end."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0

    def hold(self, some_bytes: int) -> None:
        """Grow at once."""
        self._room.hold(some_bytes)
        self._bytes += some_bytes

    async def grow(self, more_bytes: int) -> None:
        """Returns when there is room. Raises UnavailableError where there was none for too long."""
        await self._room.take(self, more_bytes)
        self._bytes += more_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._room.give_back(self, self._bytes)
