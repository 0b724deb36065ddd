"""Place one content on its target level: link it or copy it into a part, check, publish. Never over an existing name.

Everything is blocking, and safe to repeat after a crash at any point.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import posixpath
import stat
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from services.mover.beneath import Reason, doing, open_file, open_parent, sync_directory
from services.mover.blame import blaming
from services.mover.copying import (
    Copied,
    ShouldStop,
    create_part,
    digest_of,
    drop_cache,
    fill,
    sync_file,
)
from services.mover.fencing import IsCurrent, StaleError
from services.mover.identity import (
    Entry,
    OpenFile,
    discard,
    file_id,
    is_move_id,
    part_name,
    probe_name,
    same_directory,
    same_inode,
)
from services.mover.kernel import libc
from services.mover.locking import locked
from services.mover.markers import open_level
from shared.errors import DeadLetterError, RetryError
from shared.messages import Method, Move, Placed

ROUNDS = 5
"""How often the target is looked at again after somebody changed it, before the move backs off."""
SWEPT_ATTEMPTS = 100
"""How many earlier attempts are swept by name: cheaper than to list a directory of a million files."""

_RENAME_NOREPLACE = 1
# Another file system or mount, no links there, too many of them, or not to files of another owner.
LINK_REFUSED = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL}
_RENAME_REFUSED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class Placement:
    """A complete, verified, durable copy that stands on the target level. `digest` is empty where no byte was read."""

    bytes: int
    digest: str
    method: Method
    source_id: str
    target_id: str


class _Job(NamedTuple):
    move_id: str
    attempt: int
    source: OpenFile
    should_stop: ShouldStop
    is_current: IsCurrent


def check_roots(move: Move | Placed, roots: Iterable[str]) -> None:
    """Raises DeadLetterError unless both paths are among the allowed roots. No root allows nothing."""
    allowed = {posixpath.normpath(root) for root in roots}
    for path in (move.from_path, move.to_path):
        # A `..` behind a symbolic link leads elsewhere than its normalised form says.
        if ".." in path.split("/") or posixpath.normpath(path) not in allowed:
            detail = f"{path!r} is no level's directory: add it to RESHELVE_MOVER_ROOTS or correct the level"
            raise DeadLetterError(Reason.ROOT_NOT_ALLOWED, detail)


def place(
    move: Move,
    attempt: int,
    *,
    should_stop: ShouldStop,
    is_current: IsCurrent,
    marked: Collection[str] = frozenset(),
) -> Placement:
    """Bring the content to its target level; `attempt` is the fencing token of the start script.

    `marked` are the paths whose levels have a marker: where it is missing, the level is not mounted.

    Raises RetryError, DeadLetterError, StaleError where the attempt is not current, or HandedBackError once
    `should_stop()`; no part of this attempt is left then.
    """
    if not is_move_id(move.move_id):
        raise DeadLetterError(Reason.BAD_MOVE_ID, f"{move.move_id[:80]!r} is not 1-64 letters, digits and dashes")
    with blaming("target"), doing(f"place {move.filename!r}"), ExitStack() as held:
        with blaming("source"):
            source_root = held.enter_context(open_level(move.from_path, marked=move.from_path in marked))
        target_root = held.enter_context(open_level(move.to_path, marked=move.to_path in marked))
        with blaming("source"):
            source = _open_source(move, source_root, target_root, held)
        job = _Job(move.move_id, attempt, source, should_stop, is_current)
        for _ in range(ROUNDS):
            try:
                with open_parent(target_root, move.filename, like=source_root) as target:
                    sweep(job.move_id, job.attempt, target)
                    return _place_at(job, target)
            except (FileNotFoundError, FileExistsError):
                # A retire removed a directory that was empty until now, or the name was taken: look again.
                continue
    raise RetryError(Reason.TARGET_BUSY, f"{move.filename!r} appears and vanishes on the target: end its other writer")


def _open_source(move: Move, source_root: int, target_root: int, held: ExitStack) -> OpenFile:
    try:
        entry = held.enter_context(open_parent(source_root, move.filename))
        return held.enter_context(open_file(entry))
    except FileNotFoundError:
        pass
    there = "something stands" if _stands(target_root, move.filename) else "nothing stands"
    detail = f"{move.filename!r} is not on {move.from_level}; {there} under this name on {move.to_level}"
    raise DeadLetterError(Reason.SOURCE_MISSING, detail)


def _stands(root_fd: int, filename: str) -> bool:
    try:
        with open_parent(root_fd, filename) as entry:
            return entry.stat() is not None
    except FileNotFoundError:
        return False


def sweep(move_id: str, attempt: int, target: Entry) -> None:
    """Remove what earlier attempts at this move left. A zombie among them can then no longer publish."""
    for earlier in range(max(1, attempt - SWEPT_ATTEMPTS), attempt):
        discard(Entry(target.directory, part_name(move_id, earlier)))
        discard(Entry(target.directory, probe_name(move_id, earlier)))


def _place_at(job: _Job, target: Entry) -> Placement:
    """FileExistsError and FileNotFoundError: somebody else changed the target meanwhile."""
    found = target.stat()
    if found is not None:
        return _adopt(job, target, found)
    part = Entry(target.directory, part_name(job.move_id, job.attempt))
    try:
        if _link(job.source, part):
            check_apart(job.source.entry, part)
            return _publish(job, part, target, job.source.fd, Copied("link", ""))
        with create_part(part) as part_fd:
            check_apart(job.source.entry, part)
            copied = fill(job.source, part, part_fd, job.should_stop)
            return _publish(job, part, target, part_fd, copied)
    except BaseException:
        # Also where it stood already, because this very attempt was started twice: the next round makes it anew.
        discard(part)
        raise


def _link(source: OpenFile, part: Entry) -> bool:
    """Link the source to the part; False where only a copy can do.

    Not to the target at once: a wrong link must be undone, and a name that was published is never removed.
    """
    try:
        link_entry(source.entry, part)
    except FileNotFoundError:
        _check_source(source)  # then it is the directory that vanished
        raise
    except OSError as error:
        if error.errno in LINK_REFUSED:
            return False
        raise
    linked = part.stat()
    if linked is None or not same_inode(linked, source.stat):
        raise _source_changed(source)
    return True


def link_entry(old: Entry, new: Entry) -> None:
    """A second name for the very entry, which is not followed if it is a symbolic link. Raises OSError."""
    os.link(old.name, new.name, src_dir_fd=old.directory, dst_dir_fd=new.directory, follow_symlinks=False)


def link_open(source: OpenFile, new: Entry) -> None:
    """A second name for the very file that is held open, whatever its old name means by now. Raises OSError."""
    os.link(f"/proc/self/fd/{source.fd}", new.name, dst_dir_fd=new.directory, follow_symlinks=True)


def check_apart(source: Entry, part: Entry) -> None:
    """Raises DeadLetterError where the target's directory is the source's, perhaps under another device number.

    A new name in the one does not show up in the other.
    """
    if Entry(source.directory, part.name).stat() is not None:
        raise _shared_directory(source)


def _check_source(source: OpenFile) -> None:
    with blaming("source"), doing(f"look at {source.entry.name!r} again"):
        unchanged = source.is_unchanged()
    if not unchanged:
        raise _source_changed(source)


def _source_changed(source: OpenFile) -> RetryError:
    return RetryError(Reason.SOURCE_CHANGED, f"{source.entry.name!r} while it was placed: let its writer finish")


def _shared_directory(entry: Entry) -> DeadLetterError:
    detail = f"{entry.name!r} is the same entry on both levels: give each level a directory of its own"
    return DeadLetterError(Reason.SHARED_DIRECTORY, detail)


def _publish(job: _Job, part: Entry, target: Entry, fd: int, copied: Copied) -> Placement:
    """Give the complete part, open as `fd`, its name. FileExistsError where the name was taken meanwhile."""
    # Without the lock, a mover that was stopped between the question and its answer's use could publish a stray second
    # copy, after the content has come back to its source. The retire that must come first wants the lock for itself.
    with locked(job.source, Reason.SOURCE_BUSY, fcntl.LOCK_SH):
        if not job.is_current():
            raise StaleError(f"attempt {job.attempt} at {target.name!r} is not the latest")
        _check_source(job.source)
        try:
            rename_part(part, target)
        except FileNotFoundError:
            detail = f"{part.name!r} was removed before it was published: a later attempt is at work"
            raise RetryError(Reason.VANISHED, detail) from None
    sync_directory(target.directory)
    placed, named = os.fstat(fd), target.stat()
    if named is None or not same_inode(named, placed):
        raise RetryError(Reason.TARGET_CHANGED, f"{target.name!r} was replaced as soon as it was published")
    return placement_of(job.source, placed, copied)


def rename_part(part: Entry, target: Entry) -> None:
    """Give the part its name, or raise FileExistsError: never over an existing name."""
    old, new = os.fsencode(part.name), os.fsencode(target.name)
    if libc().renameat2(part.directory, old, target.directory, new, _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number not in _RENAME_REFUSED:
        raise OSError(number, os.strerror(number))
    link_entry(part, target)
    discard(part)


def _adopt(job: _Job, target: Entry, found: os.stat_result) -> Placement:
    """Take over what stands on the target if it is this very content; anything else is left as it is."""
    if not stat.S_ISREG(found.st_mode):
        raise _target_exists(target, "is no regular file")
    # A mover that is paused while it retires this file holds the lock: adopting it would lose the content.
    with open_file(target) as existing, locked(existing, Reason.TARGET_BUSY):
        if existing.stat.st_size != job.source.stat.st_size:
            raise _target_exists(target, "has another size")
        if same_directory(job.source.entry.directory, target.directory, probe_name(job.move_id, job.attempt)):
            raise _shared_directory(job.source.entry)
        # One inode under two names: an earlier attempt's link.
        linked = same_inode(existing.stat, job.source.stat)
        digest = "" if linked else _compare(job, existing)
        _check_source(job.source)
        if not existing.is_unchanged():
            raise RetryError(Reason.TARGET_CHANGED, f"{target.name!r} while it was compared: let its writer finish")
        sync_directory(target.directory)
        return placement_of(job.source, existing.stat, Copied("adopt", digest))


def _compare(job: _Job, existing: OpenFile) -> str:
    """The digest that both files have; raises DeadLetterError where they differ."""
    # Durable first, then read: an fsync that failed for whoever wrote this is not reported twice, but what it
    # lost is missing once the cache is dropped.
    sync_file(existing.fd)
    drop_cache(existing.fd)
    size = existing.stat.st_size
    with blaming("source"), doing(f"read {job.source.entry.name!r}"):
        digest = digest_of(job.source.fd, size, job.should_stop)
    if digest_of(existing.fd, size, job.should_stop) != digest:
        _check_source(job.source)
        raise _target_exists(existing.entry, "has other content")
    return digest


def _target_exists(target: Entry, what: str) -> DeadLetterError:
    detail = f"{target.name!r} on the target level {what}: compare both and remove or rename one"
    return DeadLetterError(Reason.TARGET_EXISTS, detail)


def placement_of(source: OpenFile, target: os.stat_result, copied: Copied) -> Placement:
    """What is known of the source and of what stands on the target."""
    return Placement(
        bytes=target.st_size,
        digest=copied.digest,
        method=copied.method,
        source_id=file_id(source.stat),
        target_id=file_id(target),
    )
