"""Place many small files between two levels together: the steps of `place`, each done for all before the next.

This knows only the straight way. Whatever is not straight (a large file, a name that is taken, a source that is
missing, any error of one file) is undone and left to `place`, which finds out what is the matter and says so. A sync
that failed is the exception: it was everybody's, and would pass for a success the next time.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from services.mover.beneath import Reason, open_regular
from services.mover.blame import blaming
from services.mover.copying import Copied, HandedBackError, ShouldStop, drop_cache, keep_metadata
from services.mover.directories import Directories
from services.mover.identity import Entry, OpenFile, discard, is_move_id, part_name, same_inode
from services.mover.place import (
    LINK_REFUSED,
    Placement,
    check_apart,
    link_entry,
    link_open,
    placement_of,
    rename_part,
    sweep,
)
from services.mover.syncing import sync_directories, sync_files
from services.mover.whole import SMALL_BYTES, copy_whole, is_direct, verify_whole
from shared.errors import ReshelveError, RetryError
from shared.messages import Move

COPIERS = 4
"""So many threads of a batch copy and read back what goes past the page cache, which is waiting for the device."""


@dataclass(slots=True)
class _Ready:
    """A part. `fd` is its own descriptor, or the source's where the part is a link to it.

    Without a part the source needs nothing but its new name.
    """

    source: OpenFile
    part: Entry | None
    target: Entry
    fd: int
    copied: Copied
    published: bool = False

    @property
    def size(self) -> int:
        return self.source.stat.st_size


class Placing:
    """One batch. `prepare` and `publish` block; the `with` block ends what is unfinished, waiting for a thread in them.

    Between the two the caller asks which attempts are current: the sources are locked meanwhile, as in `place`.
    """

    def __init__(self, *, marked: Collection[str], should_stop: ShouldStop) -> None:
        """`marked` and `should_stop` as for `place`."""
        self._directories = Directories(marked)
        self._should_stop = should_stop
        self._ready: dict[int, _Ready] = {}
        self.unsynced: dict[int, RetryError] = {}
        """Of which moves, by their place in `prepare`, a sync failed: neither to be trusted nor left to `place`."""
        self._links_refused = False
        self._links_work: set[tuple[int, int]] = set()
        self._apart: set[tuple[int, int]] = set()
        self._in_use = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._in_use:
            self._close()

    def prepare(self, moves: Sequence[tuple[Move, int]]) -> list[bool]:
        """Make a verified, durable part of each move, given with its attempt, and lock its source.

        True where that is done; all else is as it was. The moves are between the same two levels.
        """
        with self._in_use:
            if self._closed:
                return [False] * len(moves)
            for number, (move, attempt) in enumerate(moves):
                if self._should_stop():
                    break
                self._try(number, lambda n=number, m=move, a=attempt: self._make(n, m, a))  # type: ignore[misc]
            self._for_each(self._copies(), self._fill)
            self._make_durable()
            for number, ready in list(self._ready.items()):
                self._try(number, lambda r=ready: _lock(r.source))  # type: ignore[misc]
            return [number in self._ready for number in range(len(moves))]

    def publish(self, current: Sequence[bool]) -> list[Placement | None]:
        """Give the parts their names, of those that `prepare` made and whose attempt is `current`, in their order.

        None where an attempt is not current, or for what is left to `place`.
        """
        with self._in_use:
            if self._closed:
                return [None] * len(current)
            numbers = list(self._ready)
            for number, is_current in zip(numbers, current, strict=True):
                if is_current:
                    self._try(number, lambda r=self._ready[number]: _publish(r))  # type: ignore[misc]
                else:
                    self._drop(number)
            placements = self._confirm()
            self._close()
            return [placements.get(number) for number in numbers]

    def _try(self, number: int, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ReshelveError):
            self._drop(number)

    def _drop(self, number: int) -> None:
        ready = self._ready.pop(number, None)
        if ready is not None:
            _undo(ready)

    def _make(self, number: int, move: Move, attempt: int) -> None:
        if not is_move_id(move.move_id):
            return
        source = open_regular(self._directories.entry(move.from_path, move.filename))
        ready = None
        try:
            target = self._directories.entry(move.to_path, move.filename, like=move.from_path)
            part = Entry(target.directory, part_name(move.move_id, attempt))
            sweep(move.move_id, attempt, target)
            # The name is given in the end, and never over another: whether it is free is asked where a part is made.
            ready = self._named_only(source, target)
            if ready is None and target.stat() is None:
                ready = self._linked(source, part, target) or self._empty(source, part, target)
        finally:
            if ready is None:
                os.close(source.fd)
        if ready is not None:
            self._ready[number] = ready

    def _named_only(self, source: OpenFile, target: Entry) -> _Ready | None:
        """None where no link was made yet between the two directories."""
        if (source.entry.directory, target.directory) not in self._links_work:
            return None
        return _Ready(source, None, target, source.fd, Copied("link", ""))

    def _linked(self, source: OpenFile, part: Entry, target: Entry) -> _Ready | None:
        """None where only a copy can do: once refused between two levels, a link is not tried again in this batch."""
        if self._links_refused:
            return None
        try:
            link_entry(source.entry, part)
        except OSError as error:
            if error.errno in LINK_REFUSED:
                self._links_refused = True
                return None
            raise
        try:
            _check_linked(source, part)
            self._check_apart(source.entry, part)
        except BaseException:
            discard(part)
            raise
        self._links_work.add((source.entry.directory, target.directory))
        return _Ready(source, part, target, source.fd, Copied("link", ""))

    def _empty(self, source: OpenFile, part: Entry, target: Entry) -> _Ready | None:
        if source.stat.st_size > SMALL_BYTES:
            return None
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(part.name, flags, 0o600, dir_fd=part.directory)
        try:
            self._check_apart(source.entry, part)
        except BaseException:
            discard(part)
            os.close(fd)
            raise
        return _Ready(source, part, target, fd, Copied("copy", ""))

    def _copies(self) -> dict[int, _Ready]:
        return {number: ready for number, ready in self._ready.items() if ready.copied.method == "copy"}

    def _for_each(self, copies: Mapping[int, _Ready], action: Callable[[_Ready], object]) -> None:
        """Do it, for several at a time where that is worth it, and drop those for which it fails."""
        direct = {number: ready for number, ready in copies.items() if is_direct(ready.size)}
        for number, ready in copies.items():
            if number not in direct:
                self._try(number, lambda r=ready: action(r))  # type: ignore[misc]
        if direct:
            with ThreadPoolExecutor(min(COPIERS, len(direct)), "copy") as pool:
                coming = {number: pool.submit(action, ready) for number, ready in direct.items()}
                for number, future in coming.items():
                    self._try(number, future.result)

    def _fill(self, ready: _Ready) -> None:
        if self._should_stop():
            raise HandedBackError("the mover stops")
        ready.copied = Copied("copy", copy_whole(ready.source, ready.fd))
        keep_metadata(ready.source, ready.fd)

    def _check_apart(self, source: Entry, part: Entry) -> None:
        """Once for two directories: a batch holds them open, so they stay what they are."""
        pair = source.directory, part.directory
        if pair in self._apart:
            return
        here, there = (self._directories.stat(directory) for directory in pair)
        # On one device the inodes tell.
        if here.st_dev != there.st_dev or here.st_ino == there.st_ino:
            check_apart(source, part)
        self._apart.add(pair)

    def _make_durable(self) -> None:
        """Sync and read back what was copied. Where a sync failed, none of the parts is used: they are made anew."""
        copies = self._copies()
        if not self._synced(copies, lambda: sync_files([ready.fd for ready in copies.values()])):
            for number in copies:
                self._drop(number)
            return
        for ready in copies.values():
            drop_cache(ready.fd)
        for ready in copies.values():
            # All at once to the device, not one after the other.
            if not is_direct(ready.size):
                os.posix_fadvise(ready.fd, 0, 0, os.POSIX_FADV_WILLNEED)
        self._for_each(copies, lambda ready: verify_whole(ready.fd, ready.size, ready.copied.digest))

    def _synced(self, numbers: Iterable[int], sync: Callable[[], None]) -> bool:
        try:
            with blaming("target"):
                sync()
        except RetryError as error:
            self.unsynced.update(dict.fromkeys(numbers, error))
            return False
        return True

    def _confirm(self) -> dict[int, Placement]:
        """Make the new names durable, and see that they mean what was placed."""
        directories = list(dict.fromkeys(ready.target.directory for ready in self._ready.values()))
        if not self._synced(self._ready, lambda: sync_directories(directories)):
            return {}
        placements = {}
        for number, ready in self._ready.items():
            placed, named = os.fstat(ready.fd), ready.target.stat()
            if named is not None and same_inode(named, placed):
                placements[number] = placement_of(ready.source, placed, ready.copied)
        return placements

    def _close(self) -> None:
        self._closed = True
        for ready in self._ready.values():
            _undo(ready)
        self._ready.clear()
        self._directories.close()


def _check_linked(source: OpenFile, part: Entry) -> None:
    linked = part.stat()
    if linked is None or not same_inode(linked, source.stat):
        raise RetryError(Reason.SOURCE_CHANGED, f"{source.entry.name!r} was replaced while it was linked")


def _lock(source: OpenFile) -> None:
    """Closing the descriptor frees it."""
    fcntl.flock(source.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _publish(ready: _Ready) -> None:
    if not ready.source.is_unchanged():
        raise RetryError(Reason.SOURCE_CHANGED, f"{ready.source.entry.name!r} while it was placed")
    if ready.part is None:
        link_open(ready.source, ready.target)
    else:
        rename_part(ready.part, ready.target)
    ready.published = True


def _undo(ready: _Ready) -> None:
    """What was published stays."""
    if not ready.published and ready.part is not None:
        discard(ready.part)
    _close_all({ready.fd, ready.source.fd})


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
