"""Retire many sources together: the steps of `lock_source` and `remove`, each done for all before the next.

This knows only the straight way; whatever is not straight is left to them, as `placing` leaves it to `place`.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from services.mover.beneath import open_regular
from services.mover.blame import blaming
from services.mover.directories import Directories
from services.mover.identity import Entry, OpenFile, file_id, is_move_id, probe_name, same_directory, same_inode
from services.mover.retire import remove_emptied
from services.mover.syncing import sync_directories
from shared.errors import ReshelveError, RetryError
from shared.messages import Retire


@dataclass(slots=True)
class _Locked:
    order: Retire
    source: OpenFile
    target: Entry


class Removing:
    """One batch. `lock` and `remove` block; the `with` block lets go of what is locked, waiting for a thread in them.

    Between the two the caller asks whether the orders still hold, as for a `LockedSource`.
    """

    def __init__(self, *, marked: Collection[str]) -> None:
        """`marked` as for `lock_source`."""
        self._directories = Directories(marked)
        self._locked: list[_Locked] = []
        self._apart: dict[tuple[int, int], bool] = {}
        self.unsynced: RetryError | None = None
        """The sync failed after which the removals were to be durable."""
        self._in_use = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._in_use:
            self._close()

    def lock(self, orders: Sequence[Retire]) -> list[bool]:
        """Lock each source that is proven to be a second copy; False for what is left to `lock_source`."""
        with self._in_use:
            if self._closed:
                return [False] * len(orders)
            return [self._lock(order) for order in orders]

    def remove(self, approved: Sequence[bool]) -> list[bool]:
        """Unlink the sources that `lock` locked and that are `approved`, in their order.

        True where that is done: durably, unless `unsynced`. False for the others, and what is left to `lock_source`.
        """
        with self._in_use:
            if self._closed:
                return [False] * len(approved)
            removed = [
                is_approved and _unlink(locked) for locked, is_approved in zip(self._locked, approved, strict=True)
            ]
            done = [locked for locked, is_removed in zip(self._locked, removed, strict=True) if is_removed]
            try:
                with blaming("source"):
                    sync_directories(list(dict.fromkeys(locked.source.entry.directory for locked in done)))
            except RetryError as error:
                # Left to `lock_source`, it would pass for gone already, and nobody would hear of the device.
                self.unsynced = error
            self._remove_emptied(done)
            self._close()
            return removed

    def _lock(self, order: Retire) -> bool:
        try:
            if not is_move_id(order.move_id):
                return False
            target = self._directories.entry(order.to_path, order.filename)
            source = open_regular(self._directories.entry(order.from_path, order.filename))
        except (OSError, ReshelveError):
            return False
        locked = _Locked(order, source, target)
        try:
            fcntl.flock(source.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._are_apart(locked) and _is_second(locked):
                self._locked.append(locked)
                return True
        except OSError:
            pass
        os.close(source.fd)
        return False

    def _are_apart(self, locked: _Locked) -> bool:
        """Source and placed copy are two entries, beyond suspicion."""
        source = locked.source
        here, there = (self._directories.stat(entry.directory) for entry in (source.entry, locked.target))
        if here.st_dev == there.st_dev:
            return here.st_ino != there.st_ino
        found = locked.target.stat()
        if found is None:
            return False
        if here.st_ino != there.st_ino and found.st_ino != source.stat.st_ino:
            return True
        # The roots of two fresh file systems have the same number, and may hold every file: one probe for all of them.
        pair = source.entry.directory, locked.target.directory
        if pair not in self._apart:
            probe = probe_name(locked.order.move_id, locked.order.attempts)
            self._apart[pair] = not same_directory(*pair, probe)
        return self._apart[pair]

    def _remove_emptied(self, done: Sequence[_Locked]) -> None:
        emptied = {}
        for locked in done:
            order = locked.order
            emptied[order.from_path, order.filename.rpartition("/")[0]] = order.filename
        for (path, directory), filename in emptied.items():
            if directory:
                remove_emptied(self._directories.root(path), filename)

    def _close(self) -> None:
        self._closed = True
        for locked in self._locked:
            os.close(locked.source.fd)
        self._locked.clear()
        self._directories.close()


def _is_second(locked: _Locked) -> bool:
    """The placed copy stands, and the source is what was placed, or the same inode under its old name."""
    order, source = locked.order, locked.source
    placed, named = locked.target.stat(), source.entry.stat()
    if placed is None or named is None or not same_inode(named, source.stat):
        return False
    if same_inode(placed, source.stat):
        return True
    return stat.S_ISREG(placed.st_mode) and (file_id(placed), file_id(named)) == (order.target_id, order.source_id)


def _unlink(locked: _Locked) -> bool:
    entry = locked.source.entry
    try:
        if not _is_second(locked):
            return False
        os.unlink(entry.name, dir_fd=entry.directory)
    except OSError:
        return False
    return True
