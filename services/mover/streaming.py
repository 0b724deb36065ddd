"""Read and write the bytes of large files: past the page cache where that works, and both at the same time."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

CHUNK_BYTES = 1 << 20
"""Read, hashed and written at once, and a multiple of every alignment that O_DIRECT asks for."""
AHEAD_BYTES = 4 << 20
"""From this size on, a thread reads ahead: for smaller files it would cost more than it saves."""
SPARE_BUFFERS = 16
"""Kept for the next file: to get fresh memory from the kernel costs as much as to copy it."""

_SECTOR_BYTES = 4096

Read = Callable[[memoryview, int], int]
"""Read into the buffer what is at the offset; the number of bytes, 0 at the end of the file."""

_spare: deque[memoryview] = deque()


def stream(read: Read, size: int) -> Generator[memoryview, None, None]:
    """The first `size` bytes, or all where the file is shorter. Each chunk is valid until the next is asked for.

    What `read` brings beyond `size` is not handed on. From AHEAD_BYTES on, `read` runs in another thread, one chunk
    ahead: close the iterator before the file.
    """
    if size < AHEAD_BYTES:
        yield from in_turn(read, size)
    else:
        yield from _ahead(read, size)


def in_turn(read: Read, size: int) -> Iterator[memoryview]:
    """As `stream`, whatever the size, without a thread."""
    with buffer() as chunk:
        offset = 0
        while offset < size:
            count = min(read(chunk, offset), size - offset)
            if count == 0:
                return
            yield chunk[:count]
            offset += count


def _ahead(read: Read, size: int) -> Iterator[memoryview]:
    # The thread ends before its buffers are given to somebody else.
    with buffer() as one, buffer() as other, ThreadPoolExecutor(1, "read-ahead") as reader:
        offset, turns = 0, [one, other]
        coming: Future[int] = reader.submit(read, one, 0)
        while offset < size:
            count = min(coming.result(), size - offset)
            if count == 0:
                return
            filled = turns[0][:count]
            turns.reverse()
            offset += count
            if offset < size:
                coming = reader.submit(read, turns[0], offset)
            yield filled


@contextmanager
def buffer() -> Iterator[memoryview]:
    """CHUNK_BYTES for the block, aligned to a page, as O_DIRECT wants it."""
    try:
        chunk = _spare.pop()
    except IndexError:
        chunk = memoryview(mmap.mmap(-1, CHUNK_BYTES))
    try:
        yield chunk
    finally:
        if len(_spare) < SPARE_BUFFERS:
            _spare.append(chunk)


def go_direct(fd: int) -> None:
    """From now on past the page cache, where the file system can."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _leave_direct(fd: int) -> bool:
    """False where it was not direct anyway."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_DIRECT:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)


def aligned(size: int) -> int:
    """So many bytes to read, for a direct read of `size`."""
    return -(-size // _SECTOR_BYTES) * _SECTOR_BYTES


def read_at(fd: int, buffer: memoryview, offset: int) -> int:
    """Up to the whole buffer, so that a direct read is aligned even where the file ends."""
    try:
        return os.preadv(fd, [buffer], offset)
    except OSError as error:
        # An offset or a length that this file system does not take directly, or nothing at all.
        if error.errno != errno.EINVAL or not _leave_direct(fd):
            raise
        return os.preadv(fd, [buffer], offset)


def write(fd: int, chunk: memoryview) -> None:
    """All of it; what does not fill a whole sector at its end goes through the page cache."""
    whole = len(chunk) - len(chunk) % _SECTOR_BYTES
    _write_all(fd, chunk[:whole])
    if whole < len(chunk):
        _leave_direct(fd)
        _write_all(fd, chunk[whole:])


def _write_all(fd: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[_write_some(fd, chunk) :]


def _write_some(fd: int, chunk: memoryview) -> int:
    try:
        return os.write(fd, chunk)
    except OSError as error:
        if error.errno != errno.EINVAL or not _leave_direct(fd):
            raise
        return os.write(fd, chunk)
