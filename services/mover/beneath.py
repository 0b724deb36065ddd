"""Reach files beneath a level's root, following no symbolic link, and say what an error there means.

Python has no openat2(RESOLVE_BENEATH): a path is walked component by component, each opened from its parent's
descriptor, so that nobody can swap a directory for a link under our feet.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum

from services.mover.identity import Entry, OpenFile
from shared.errors import DeadLetterError, InvalidError, RetryError
from shared.names import check_filename

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that took the file's place must not hang the mover.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
DEFAULT_MODE = 0o755
_BARE_BYTES = 4096
"""A larger directory is not new: no need to list it, which takes half a millisecond there."""


class Reason(StrEnum):
    """Why the file work gave up: the `reason` of its errors, and so a metric label. Details are free text."""

    # An operator has to look.
    BAD_FILENAME = "bad filename"
    BAD_MOVE_ID = "bad move_id"
    ROOT_NOT_ALLOWED = "root not allowed"
    ESCAPE = "escape from the root"
    NOT_A_DIRECTORY = "not a directory"
    NOT_A_FILE = "not a regular file"
    NAME_REFUSED = "name refused"
    FILE_TOO_LARGE = "file too large"
    SOURCE_MISSING = "source missing"
    TARGET_EXISTS = "target exists"
    SHARED_DIRECTORY = "levels share a directory"
    PLACED_MISSING = "placed copy missing"
    PLACED_CHANGED = "placed copy changed"

    # A retry while placing; a dead letter when a source differs from what was placed.
    SOURCE_CHANGED = "source changed"

    # May pass by itself.
    TARGET_CHANGED = "target changed"
    SOURCE_BUSY = "source busy"
    TARGET_BUSY = "target busy"
    COPY_DIFFERS = "copy differs"
    FSYNC_FAILED = "fsync failed"
    VANISHED = "vanished"
    LEVEL_UNAVAILABLE = "level unavailable"
    DISK_FULL = "disk full"
    READ_ONLY = "read-only file system"
    IO_ERROR = "i/o error"
    BUSY = "busy"
    EXHAUSTED = "out of resources"
    PERMISSION = "permission denied"
    UNEXPECTED = "unexpected error"


_Error = type[RetryError] | type[DeadLetterError]

_VERDICTS: tuple[tuple[_Error, Reason, str, tuple[int, ...]], ...] = (
    (RetryError, Reason.DISK_FULL, "free space or raise the quota", (errno.ENOSPC, errno.EDQUOT)),
    (RetryError, Reason.READ_ONLY, "remount it writable", (errno.EROFS,)),
    # EUCLEAN is how ext4 and XFS report damaged structures.
    (RetryError, Reason.IO_ERROR, "check the device", (errno.EIO, errno.ENXIO, errno.EREMOTEIO, errno.EUCLEAN)),
    (
        RetryError,
        Reason.LEVEL_UNAVAILABLE,
        "check the mount",
        (
            *(errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
            *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH, errno.ESHUTDOWN),
        ),
    ),
    (RetryError, Reason.BUSY, "wait", (errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETXTBSY, errno.EDEADLK)),
    (
        RetryError,
        Reason.EXHAUSTED,
        "lower RESHELVE_MOVER_CONCURRENCY or raise the limit",
        (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOLCK),
    ),
    # A retry: permissions are what an operator corrects while the mover backs off.
    (RetryError, Reason.PERMISSION, "give the mover's user access", (errno.EACCES, errno.EPERM)),
    # Something was removed under our feet: the next attempt starts from what is there then.
    (RetryError, Reason.VANISHED, "wait", (errno.ENOENT,)),
    (DeadLetterError, Reason.ESCAPE, "replace the symbolic link", (errno.ELOOP,)),
    (DeadLetterError, Reason.NOT_A_DIRECTORY, "make room for the directory", (errno.ENOTDIR,)),
    (DeadLetterError, Reason.NOT_A_FILE, "track regular files only", (errno.EISDIR,)),
    # EINVAL and EILSEQ: a name that this file system cannot write down (FAT, SMB, ZFS with utf8only).
    (DeadLetterError, Reason.NAME_REFUSED, "rename the file", (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)),
    (DeadLetterError, Reason.FILE_TOO_LARGE, "use a file system that can hold it", (errno.EFBIG, errno.EOVERFLOW)),
)
_VERDICT_BY_ERRNO = {number: verdict[:3] for verdict in _VERDICTS for number in verdict[3]}


def classify(error: OSError, doing: str) -> RetryError | DeadLetterError:
    """What happens next after an error that nobody expected at that place; an unknown one is retried."""
    unknown: tuple[_Error, Reason, str] = (RetryError, Reason.UNEXPECTED, "see the system's log")
    kind, reason, remedy = _VERDICT_BY_ERRNO.get(error.errno or 0, unknown)
    return kind(reason, f"cannot {doing}: {error.strerror or error}; {remedy}")


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Classify any OSError of the block; `what` completes "cannot …"."""
    try:
        yield
    except OSError as error:
        raise classify(error, what) from error


@contextmanager
def open_root(path: str) -> Iterator[int]:
    """A descriptor of the level's directory, which itself may be reached through links."""
    try:
        fd = os.open(path, DIRECTORY_FLAGS)
    except OSError as error:
        remedy = "mount it or correct the level's path"
        raise RetryError(Reason.LEVEL_UNAVAILABLE, f"cannot open {path!r}: {error.strerror}; {remedy}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def components(filename: str) -> list[str]:
    """The filename's components, checked again: it came over the wire."""
    try:
        return check_filename(filename).split("/")
    except InvalidError as error:
        raise DeadLetterError(Reason.BAD_FILENAME, str(error)) from None


@contextmanager
def open_parent(root_fd: int, filename: str, *, like: int | None = None) -> Iterator[Entry]:
    """The file's entry in its open directory. Raises FileNotFoundError where a directory is missing.

    With `like`, the root of another level, missing directories are made durably, with the mode and, where that is
    permitted, the owner that they have there. FileNotFoundError then means that somebody removed an empty
    directory meanwhile: repeat.
    """
    *directories, name = components(filename)
    fd = _descend(root_fd, directories, like)
    try:
        yield Entry(fd, name)
    finally:
        os.close(fd)


def _descend(root_fd: int, directories: Sequence[str], like: int | None) -> int:
    fd = os.dup(root_fd)
    try:
        for depth, name in enumerate(directories, 1):
            below = _step(fd, name) if like is None else _step_or_make(fd, name, like, directories[:depth])
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _step(parent_fd: int, name: str) -> int:
    try:
        return os.open(name, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent_fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        # Linux answers ENOTDIR for a link too, where both O_DIRECTORY and O_NOFOLLOW are given.
        found = Entry(parent_fd, name).stat()
        if found is not None and stat.S_ISLNK(found.st_mode):
            raise DeadLetterError(Reason.ESCAPE, f"{name!r} is a symbolic link: replace it by a directory") from None
        raise classify(error, f"open the directory {name!r}") from error


def _step_or_make(parent_fd: int, name: str, like: int, path: Sequence[str]) -> int:
    try:
        fd = _step(parent_fd, name)
    except FileNotFoundError:
        return _make(parent_fd, name, _stat_directory(like, path))
    try:
        # Whoever made it may have died before its fsync. Where something stood in it, whoever put it there has looked.
        if _is_bare(fd, name):
            _sync_name(parent_fd, name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_bare(fd: int, name: str) -> bool:
    if os.fstat(fd).st_size > _BARE_BYTES:
        return False
    with doing(f"list {name!r}"), os.scandir(fd) as entries:
        return next(entries, None) is None


def _sync_name(parent_fd: int, name: str) -> None:
    """Make the name of a new directory durable; where that failed it goes, as an fsync is never trusted after that."""
    try:
        sync_directory(parent_fd)
    except RetryError:
        with suppress(OSError):
            os.rmdir(name, dir_fd=parent_fd)
        raise


def _stat_directory(root_fd: int, path: Sequence[str]) -> os.stat_result | None:
    try:
        fd = _descend(root_fd, path, None)
    except FileNotFoundError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _make(parent_fd: int, name: str, model: os.stat_result | None) -> int:
    made = True
    try:
        os.mkdir(name, stat.S_IMODE(model.st_mode) if model else DEFAULT_MODE, dir_fd=parent_fd)
    except FileExistsError:
        made = False  # another mover was faster
    except FileNotFoundError:
        raise
    except OSError as error:
        raise classify(error, f"make the directory {name!r}") from error
    # Also after losing the race: whoever won it may die before its own fsync.
    _sync_name(parent_fd, name)
    fd = _step(parent_fd, name)
    if made and model:
        with suppress(OSError):
            os.fchown(fd, model.st_uid, model.st_gid)
        with suppress(OSError):  # once more: the umask took its share of mkdir's mode
            os.fchmod(fd, stat.S_IMODE(model.st_mode))
    return fd


@contextmanager
def open_file(entry: Entry) -> Iterator[OpenFile]:
    """The regular file at this entry, open for reading. Raises FileNotFoundError where nothing stands."""
    file = open_regular(entry)
    try:
        yield file
    finally:
        os.close(file.fd)


def open_regular(entry: Entry) -> OpenFile:
    """As `open_file`; whoever calls closes the descriptor."""
    fd = _open_unnoticed(entry)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return OpenFile(entry, fd, found)
    os.close(fd)
    raise DeadLetterError(Reason.NOT_A_FILE, f"{entry.name!r} is no regular file: track regular files only")


def _open_unnoticed(entry: Entry) -> int:
    """Without a trace in the access time where that is permitted: a mover is no viewer."""
    try:
        try:
            return os.open(entry.name, FILE_FLAGS | os.O_NOATIME, dir_fd=entry.directory)
        except PermissionError:
            return os.open(entry.name, FILE_FLAGS, dir_fd=entry.directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise DeadLetterError(Reason.NOT_A_FILE, f"{entry.name!r} is no regular file") from None
        raise classify(error, f"open {entry.name!r}") from error


def sync_directory(fd: int) -> None:
    """Make the names in an open directory durable. Raises RetryError where that failed."""
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems know no fsync of a directory: there the server's answer is the promise.
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise RetryError(Reason.FSYNC_FAILED, f"the directory: {error.strerror}; check the device") from error
