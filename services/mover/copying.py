"""Make a verified, durable copy of an open file in a part: clone, or copy while hashing and read it back."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from blake3 import blake3

from services.mover.beneath import Reason, classify, doing, open_file
from services.mover.blame import blaming
from services.mover.identity import Entry, OpenFile
from shared.errors import ReshelveError, RetryError
from shared.messages import Method

CHUNK_BYTES = 1 << 20
"""Read, hashed and written at once: still in the processor's cache for each of the three."""
WINDOW_BYTES = 64 << 20
"""How far the disk may lag behind the copy, so that the one fsync at the end does not take minutes."""

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h

# A right that we lack, an owner or a kind of attribute that the target's file system does not know.
_REFUSED = {errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODATA}
_FALLOCATE_REFUSED = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

ShouldStop = Callable[[], bool]


class HandedBackError(ReshelveError):
    """The service is to stop: nothing was published, give the entry back for another mover."""


class Copied(NamedTuple):
    """`digest` is the BLAKE3 hex digest, empty for a clone: no byte of it was read."""

    method: Method
    digest: str


@contextmanager
def create_part(part: Entry) -> Iterator[int]:
    """A new empty file, open for writing. Raises FileExistsError, FileNotFoundError where its directory was removed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(part.name, flags, 0o600, dir_fd=part.directory)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise classify(error, f"create {part.name!r}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def fill(source: OpenFile, part: Entry, part_fd: int, should_stop: ShouldStop) -> Copied:
    """Fill the empty part with the source's content and metadata, durably and verified.

    Raises HandedBackError between two chunks once `should_stop()`; the caller removes the part after any error.
    """
    if _clone(source.fd, part_fd):
        copied = Copied("reflink", "")
    else:
        _reserve(part_fd, source.stat.st_size)
        copied = Copied("copy", _copy_bytes(source, part_fd, should_stop))
    _keep_metadata(source, part_fd)
    sync_file(part_fd)
    if copied.digest:
        _verify(part, part_fd, copied.digest, should_stop)
    return copied


def digest_of(fd: int, size: int, should_stop: ShouldStop) -> str:
    """BLAKE3 hex digest of the file's first `size` bytes, or of all where it is shorter."""
    hasher = blake3(max_threads=1)
    for chunk in _chunks(fd, size, should_stop):
        hasher.update(chunk)
    return hasher.hexdigest()


def drop_cache(fd: int) -> None:
    """What is read next comes from the device, as far as the kernel takes the advice (clean pages only)."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_file(fd: int) -> None:
    """Raises RetryError where it failed; never call it again for that copy.

    The kernel reports lost pages only once, then calls them clean.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        detail = f"{error.strerror}: the copy is not trusted; check the device"
        raise RetryError(Reason.FSYNC_FAILED, detail) from error


@functools.cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _clone(source_fd: int, part_fd: int) -> bool:
    try:
        fcntl.ioctl(part_fd, _FICLONE, source_fd)
    except OSError:  # whatever it was: copying works, or meets the same error and names it
        return False
    return True


def _reserve(part_fd: int, size: int) -> None:
    """Meet a full disk now, not after an hour of copying.

    Not os.posix_fallocate: where the file system cannot, glibc writes a byte into each block instead.
    """
    if size <= CHUNK_BYTES:  # the first write tells as soon
        return
    with doing(f"reserve {size} bytes for the copy"):
        if libc().fallocate(part_fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)) != 0:
            number = ctypes.get_errno()
            if number not in _FALLOCATE_REFUSED:
                raise OSError(number, os.strerror(number))


def _copy_bytes(source: OpenFile, part_fd: int, should_stop: ShouldStop) -> str:
    hasher = blake3(max_threads=1)
    size = source.stat.st_size
    written = flushed = 0
    if size > CHUNK_BYTES:
        os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    with doing("copy the content"):
        for chunk in _read(source, size, should_stop):
            hasher.update(chunk)
            _write(part_fd, chunk)
            written += len(chunk)
            if written - flushed >= WINDOW_BYTES:
                # Begins to write back what is dirty; waits for nothing.
                os.posix_fadvise(part_fd, flushed, written - flushed, os.POSIX_FADV_DONTNEED)
                flushed = written
    if written != size:
        raise RetryError(Reason.SOURCE_CHANGED, f"{size} bytes became {written} while copying: let its writer finish")
    return hasher.hexdigest()


def _read(source: OpenFile, size: int, should_stop: ShouldStop) -> Iterator[memoryview]:
    # An error while the chunk is written is not raised in here, and so does not blame the source.
    with blaming("source"), doing(f"read {source.entry.name!r}"):
        yield from _chunks(source.fd, size, should_stop)


def _chunks(fd: int, size: int, should_stop: ShouldStop) -> Iterator[memoryview]:
    """Each chunk is valid until the next is asked for. Ends early where the file is shorter than `size`."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, size)))
    offset = 0
    while offset < size:
        if should_stop():
            raise HandedBackError("the mover stops")
        count = os.preadv(fd, [buffer[: size - offset]], offset)
        if count == 0:
            return
        yield buffer[:count]
        offset += count


def _write(fd: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(fd, chunk) :]


def _keep_metadata(source: OpenFile, part_fd: int) -> None:
    with doing("keep owner, mode, attributes and times"):
        mode = stat.S_IMODE(source.stat.st_mode)
        if not _keep_owner(source.stat, part_fd):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # nobody may run it as the mover's user
        os.fchmod(part_fd, mode)
        _keep_attributes(source.fd, part_fd)
        # Last: all of the above may touch them.
        os.utime(part_fd, ns=(source.stat.st_atime_ns, source.stat.st_mtime_ns))


def _keep_owner(wanted: os.stat_result, part_fd: int) -> bool:
    """False where the file could not be given to its owner; then at least the group is kept, if we belong to it."""
    given = False
    with _where_permitted():
        os.fchown(part_fd, wanted.st_uid, wanted.st_gid)
        given = True
    if not given:
        with _where_permitted():
            os.fchown(part_fd, -1, wanted.st_gid)
    return given


def _keep_attributes(source_fd: int, part_fd: int) -> None:
    names: list[str] = []
    with _where_permitted():
        names = os.listxattr(source_fd)
    for name in names:
        with _where_permitted():
            os.setxattr(part_fd, name, os.getxattr(source_fd, name))


@contextmanager
def _where_permitted() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise


def _verify(part: Entry, part_fd: int, digest: str, should_stop: ShouldStop) -> None:
    drop_cache(part_fd)
    with doing("read the copy back"), open_file(part) as fresh:
        found = digest_of(fresh.fd, fresh.stat.st_size, should_stop)
    if found != digest:
        detail = f"written with digest {digest}, read back with {found}: check the device"
        raise RetryError(Reason.COPY_DIFFERS, detail)
