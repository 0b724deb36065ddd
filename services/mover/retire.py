"""Retire a source copy after the commit: prove that the placed copy is there, lock the source, remove it.

Two phases, because between them the caller asks Redis and MySQL whether the order still holds. The source is locked
meanwhile, and the lock is what makes the answer stay true: a mover that was paused between the question and the
removal still holds it, so that whoever took over its entry is told `source busy` and cannot settle; without settling
the content cannot be planned again, and no later move can bring it back to the name that the paused mover is about
to remove. When a mover dies, the kernel frees its lock.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from services.mover.beneath import Reason, components, doing, open_file, open_parent, sync_directory
from services.mover.blame import blaming
from services.mover.identity import Entry, OpenFile, file_id, is_move_id, probe_name, same_directory, same_inode
from services.mover.locking import locked
from services.mover.markers import open_level
from shared.errors import DeadLetterError, ReshelveError, RetryError
from shared.messages import Retire


@dataclass(slots=True)
class LockedSource:
    """A source copy that may be removed, as far as the disk can tell; locked until the `with` block ends.

    The block may end in another thread: that waits for a removal that is under way, whose descriptors it closes.
    """

    _order: Retire
    _source: OpenFile
    _source_root: int
    _target_root: int
    _held: ExitStack
    _in_use: threading.Lock = field(default_factory=threading.Lock)
    _released: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._in_use:
            self._released = True
            self._held.close()

    def remove(self) -> None:
        """Unlink the source durably, and the directories that this leaves empty. Checks the placed copy once more.

        Raises DeadLetterError or RetryError with the source in place; after a failed fsync it is gone: just repeat.
        """
        with self._in_use, blaming("source"), doing(f"retire {self._order.filename!r}"):
            if self._released:  # the descriptors' numbers may mean other files by now
                raise RetryError(Reason.SOURCE_BUSY, f"{self._order.filename!r} was let go before it was removed")
            _check_source(self._order, self._source, linked=_check_placed(self._order, self._target_root, self._source))
            entry = self._source.entry
            os.unlink(entry.name, dir_fd=entry.directory)
            sync_directory(entry.directory)
            remove_emptied(self._source_root, self._order.filename)


def lock_source(order: Retire, *, marked: Collection[str] = frozenset()) -> LockedSource | None:
    """The source, locked and proven to be a second copy; None where it is gone already: settle.

    `marked` are the paths whose levels have a marker: where it is missing, the level is not mounted.

    Raises DeadLetterError where the placed copy or the source is not what the order says, RetryError where the
    source is locked by somebody else or a level cannot be reached.
    """
    if not is_move_id(order.move_id):
        raise DeadLetterError(Reason.BAD_MOVE_ID, f"{order.move_id[:80]!r} is not 1-64 letters, digits and dashes")
    with blaming("source"), doing(f"retire {order.filename!r}"), ExitStack() as held:
        with blaming("target"):
            target_root = held.enter_context(open_level(order.to_path, marked=order.to_path in marked))
        source_root = held.enter_context(open_level(order.from_path, marked=order.from_path in marked))
        source = _open_source(order, source_root, held)
        linked = _check_placed(order, target_root, source)
        if source is None:
            # Once more: whoever removed it may have died before its directories.
            remove_emptied(source_root, order.filename)
            return None
        _check_apart(order, target_root, source)
        held.enter_context(locked(source, Reason.SOURCE_BUSY))
        _check_source(order, source, linked=linked)
        return LockedSource(order, source, source_root, target_root, held.pop_all())


def _open_source(order: Retire, source_root: int, held: ExitStack) -> OpenFile | None:
    try:
        entry = held.enter_context(open_parent(source_root, order.filename))
        return held.enter_context(open_file(entry))
    except FileNotFoundError:
        return None


def _check_placed(order: Retire, target_root: int, source: OpenFile | None) -> bool:
    """Raises DeadLetterError unless the placed copy stands. True where it is the source's inode under another name.

    Such a hard link shares every later change with the source, and so cannot differ from it.
    """
    found = None
    with (
        blaming("target"),
        doing(f"look at the placed copy of {order.filename!r}"),
        suppress(FileNotFoundError),
        open_parent(target_root, order.filename) as target,
    ):
        found = target.stat()
    if found is None:
        detail = f"{order.filename!r} is not on {order.to_level}: its copy on {order.from_level} is kept, move it back"
        raise DeadLetterError(Reason.PLACED_MISSING, detail)
    if source is not None and same_inode(found, source.stat):
        return True
    if not stat.S_ISREG(found.st_mode) or file_id(found) != order.target_id:
        detail = (
            f"{order.filename!r} on {order.to_level} is {file_id(found)}, placed was {order.target_id}: "
            f"compare it with the copy on {order.from_level}"
        )
        raise DeadLetterError(Reason.PLACED_CHANGED, detail)
    return False


def _check_apart(order: Retire, target_root: int, source: OpenFile) -> None:
    """Raises DeadLetterError where source and placed copy are one entry: to remove one would be to remove both."""
    with open_parent(target_root, order.filename) as target:
        found = target.stat()
        if found is not None and _is_same_entry(order, source, target, found):
            detail = f"{order.filename!r} is the same entry on both levels: give each level a directory of its own"
            raise DeadLetterError(Reason.SHARED_DIRECTORY, detail)


def _is_same_entry(order: Retire, source: OpenFile, target: Entry, found: os.stat_result) -> bool:
    here, there = os.fstat(source.entry.directory), os.fstat(target.directory)
    if here.st_dev == there.st_dev:
        return here.st_ino == there.st_ino
    if here.st_ino != there.st_ino and found.st_ino != source.stat.st_ino:
        # Placing proved them apart. Only a suspicion is worth a probe: it writes, and the target may be full by now.
        return False
    return same_directory(source.entry.directory, target.directory, probe_name(order.move_id, order.attempts))


def _check_source(order: Retire, source: OpenFile, *, linked: bool) -> None:
    """Raises RetryError where the name means another file by now, DeadLetterError where the file was changed."""
    named = source.entry.stat()
    if named is None or not same_inode(named, source.stat):
        raise RetryError(Reason.SOURCE_CHANGED, f"{order.filename!r} was replaced while it was retired")
    if not linked and file_id(named) != order.source_id:
        detail = (
            f"{order.filename!r} on {order.from_level} is {file_id(named)}, copied was {order.source_id}: "
            f"compare it with the copy on {order.to_level}"
        )
        raise DeadLetterError(Reason.SOURCE_CHANGED, detail)


def remove_emptied(source_root: int, filename: str) -> None:
    """Remove the directories above the file that are empty now, innermost first; never the level's root."""
    directories = components(filename)[:-1]
    # Quietly: the source is retired, and an empty directory harms nobody.
    with suppress(OSError, ReshelveError):
        for depth in range(len(directories), 0, -1):
            with open_parent(source_root, "/".join(directories[:depth])) as emptied:
                os.rmdir(emptied.name, dir_fd=emptied.directory)
