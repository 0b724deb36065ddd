"""Make a verified, durable copy of an open file in a part: clone, or copy while hashing and read it back."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from blake3 import blake3

from services.mover.beneath import Reason, classify, doing, open_file
from services.mover.blame import blaming
from services.mover.following import Following
from services.mover.identity import Entry, OpenFile
from services.mover.kernel import TMPFS, file_system_of
from services.mover.room import RoomAhead, check_room, reserve
from services.mover.streaming import AHEAD_BYTES, CHUNK_BYTES, Read, go_direct, in_turn, read_at, stream, write
from shared.errors import ReshelveError, RetryError
from shared.messages import Method

DIRECT_BYTES = 8 << 20
"""From this size on, a file is written and read back past the page cache: smaller ones gain nothing by it."""
WINDOW_BYTES = 64 << 20
"""How far the disk may lag behind what goes through the cache, so that the one fsync does not take minutes."""

_FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h

# A right that we lack, an owner or a kind of attribute that the target's file system does not know.
_REFUSED = {errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODATA}

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
        keep_metadata(source, part_fd)
        sync_file(part_fd)
        return Copied("reflink", "")
    size = source.stat.st_size
    if size >= AHEAD_BYTES and file_system_of(part_fd) == TMPFS:
        check_room(part_fd, size)
        digest = _copy_verified(source, part, part_fd, should_stop)
        keep_metadata(source, part_fd)
        sync_file(part_fd)
    else:
        reserve(part_fd, size)
        digest = _copy(source, part_fd, should_stop)
        keep_metadata(source, part_fd)
        sync_file(part_fd)
        _verify(part, part_fd, digest, should_stop)
    return Copied("copy", digest)


def digest_of(fd: int, size: int, should_stop: ShouldStop) -> str:
    """BLAKE3 hex digest of the file's first `size` bytes, or of all where it is shorter."""
    hasher = blake3(max_threads=1)

    def read(buffer: memoryview, offset: int) -> int:
        return read_at(fd, buffer, offset)

    with closing(stream(_unless(should_stop, read), size)) as chunks:
        for chunk in chunks:
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


def _clone(source_fd: int, part_fd: int) -> bool:
    try:
        fcntl.ioctl(part_fd, _FICLONE, source_fd)
    except OSError:  # whatever it was: copying works, or meets the same error and names it
        return False
    return True


def _copy(source: OpenFile, part_fd: int, should_stop: ShouldStop) -> str:
    """The digest of what was read. What was written is neither durable nor verified yet."""
    flushed = 0

    def flush(written: int) -> None:
        nonlocal flushed
        if written - flushed >= WINDOW_BYTES:
            # Begins to write back what is dirty; waits for nothing.
            os.posix_fadvise(part_fd, flushed, written - flushed, os.POSIX_FADV_DONTNEED)
            flushed = written

    hasher = blake3(max_threads=1)
    size = source.stat.st_size
    if size > CHUNK_BYTES:
        os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    if size >= DIRECT_BYTES:
        go_direct(part_fd)
    # Hashed where it is read, while the chunk before is written.
    _write(size, part_fd, _read(source, hasher, should_stop, stream), flush)
    return hasher.hexdigest()


def _copy_verified(source: OpenFile, part: Entry, part_fd: int, should_stop: ShouldStop) -> str:
    """The digest of what was read, and of what was read back right behind the writing: only for a copy in memory.

    Two threads have about as much to do there: to get memory takes longest, so the second one does it while it has
    nothing to read, and the first one else. A third, to read ahead, would have to share a core with one of them.
    """
    hasher, size = blake3(max_threads=1), source.stat.st_size
    with open_file(part) as fresh:

        def read_back(chunk: memoryview, offset: int) -> int:
            with doing("read the copy back"):
                return read_at(fresh.fd, chunk, offset)

        with Following(_unless(should_stop, read_back), RoomAhead(part_fd, size).step) as following:

            def written(end: int) -> None:
                # The source's disk goes on while the next chunk is hashed and written.
                os.posix_fadvise(source.fd, end + CHUNK_BYTES, CHUNK_BYTES, os.POSIX_FADV_WILLNEED)
                following.written(end)

            _write(size, part_fd, _read(source, hasher, should_stop, in_turn), written)
            found = following.digest()
        found_size = os.fstat(fresh.fd).st_size
    _check_same(hasher.hexdigest(), found)
    if found_size != size:
        raise RetryError(Reason.COPY_DIFFERS, f"{size} bytes were written, there are {found_size}: check the device")
    return found


def _write(size: int, part_fd: int, chunks: Generator[memoryview, None, None], written: Callable[[int], None]) -> None:
    """Tells `written` after each chunk how many bytes are there by now."""
    end = 0
    with doing("copy the content"), closing(chunks):
        for chunk in chunks:
            write(part_fd, chunk)
            end += len(chunk)
            written(end)
    if end != size:
        raise RetryError(Reason.SOURCE_CHANGED, f"{size} bytes became {end} while copying: let its writer finish")


def _read(
    source: OpenFile, hasher: blake3, should_stop: ShouldStop, by: Callable[[Read, int], Iterator[memoryview]]
) -> Generator[memoryview, None, None]:
    """The source's chunks, `by` one of streaming's, each hashed."""
    size = source.stat.st_size

    def read(buffer: memoryview, offset: int) -> int:
        count = read_at(source.fd, buffer, offset)
        hasher.update(buffer[: min(count, size - offset)])
        return count

    # An error while the chunk is written is not raised in here, and so does not blame the source.
    with blaming("source"), doing(f"read {source.entry.name!r}"):
        yield from by(_unless(should_stop, read), size)


def _unless(should_stop: ShouldStop, read: Read) -> Read:
    def checked(buffer: memoryview, offset: int) -> int:
        if should_stop():
            raise HandedBackError("the mover stops")
        return read(buffer, offset)

    return checked


def keep_metadata(source: OpenFile, part_fd: int) -> None:
    """Owner, mode, attributes and times, as far as we may. Raises RetryError or DeadLetterError."""
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
    if _permitted(lambda: os.fchown(part_fd, wanted.st_uid, wanted.st_gid)):
        return True
    _permitted(lambda: os.fchown(part_fd, -1, wanted.st_gid))
    return False


def _keep_attributes(source_fd: int, part_fd: int) -> None:
    names: list[str] = []
    _permitted(lambda: names.extend(os.listxattr(source_fd)))
    for name in names:
        _permitted(lambda name=name: os.setxattr(part_fd, name, os.getxattr(source_fd, name)))  # type: ignore[misc]


def _permitted(action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False
    return True


def _verify(part: Entry, part_fd: int, digest: str, should_stop: ShouldStop) -> None:
    # Also where it was written and is read directly: a file system may do either through the cache after all.
    drop_cache(part_fd)
    with doing("read the copy back"), open_file(part) as fresh:
        if fresh.stat.st_size >= DIRECT_BYTES:
            go_direct(fresh.fd)
        found = digest_of(fresh.fd, fresh.stat.st_size, should_stop)
    _check_same(digest, found)


def _check_same(digest: str, found: str) -> None:
    if found != digest:
        detail = f"written with digest {digest}, read back with {found}: check the device"
        raise RetryError(Reason.COPY_DIFFERS, detail)
