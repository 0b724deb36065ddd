"""Read back and hash a file in a thread while it is written, right behind the writing; make room for it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from blake3 import blake3

from services.mover.streaming import Read, buffer


class Following:
    """For a file that is in memory and nowhere else: elsewhere, what was not synced may be read from the page cache.

    Use it as a `with` block, which ends the thread.
    """

    def __init__(self, read: Read, make_room: Callable[[int], bool]) -> None:
        """`read` as for `stream`; `make_room` for what comes next, given how much is written: False where it has.

        Both run in the thread.
        """
        self._read = read
        self._make_room = make_room
        self._ends: SimpleQueue[int | None] = SimpleQueue()
        self._abandoned = False
        self._thread = ThreadPoolExecutor(1, "read-back")
        self._found = self._thread.submit(self._follow)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._abandoned = True
        self._ends.put(None)
        self._thread.shutdown()

    def written(self, end: int) -> None:
        """All bytes before `end` may be read. Raises what reading back has met so far."""
        if self._found.done():
            self._found.result()
        self._ends.put(end)

    def digest(self) -> str:
        """BLAKE3 hex digest of what was read back of all that was written. Raises what reading it met."""
        self._ends.put(None)
        return self._found.result()

    def _follow(self) -> str:
        hasher, offset = blake3(max_threads=1), 0
        with buffer() as chunk:
            while (end := self._next(offset)) is not None:
                while offset < end and not self._abandoned:
                    count = self._read(chunk[: end - offset], offset)
                    if count == 0:  # it was cut
                        return hasher.hexdigest()
                    hasher.update(chunk[:count])
                    offset += count
        return hasher.hexdigest()

    def _next(self, end: int) -> int | None:
        """How much is written after `end`, which was read back. While there is nothing to read, room is made."""
        while True:
            try:
                return self._ends.get_nowait()
            except Empty:
                if not self._make_room(end):
                    return self._ends.get()
