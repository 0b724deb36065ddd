"""Copy a file that fits into one buffer: read, hashed, written and later read back in one piece.

From DIRECT_BYTES on it goes past the page cache of the target. Memory that nothing was in before is what a copy
through the cache takes most of its time to get, once for what it writes and once more for what it reads back.
"""

from __future__ import annotations

import os

from blake3 import blake3

from services.mover.beneath import Reason
from services.mover.identity import OpenFile
from services.mover.streaming import CHUNK_BYTES, aligned, buffer, go_direct, read_at, write
from shared.errors import RetryError

SMALL_BYTES = CHUNK_BYTES
"""A larger file does not fit, and is copied by itself: it would keep the others of a batch waiting."""
DIRECT_BYTES = 256 << 10
"""From this size on, several files are copied at a time: for smaller ones a thread costs more than it saves."""


def copy_whole(source: OpenFile, part_fd: int) -> str:
    """Fill the empty part; returns the BLAKE3 hex digest of what was read. Raises OSError or RetryError."""
    size = source.stat.st_size
    with buffer() as chunk:
        content = _read(source.fd, chunk, size)
        digest = blake3(content, max_threads=1).hexdigest()
        if is_direct(size):
            go_direct(part_fd)
            write(part_fd, content)
        elif os.write(part_fd, content) != size:
            raise RetryError(Reason.DISK_FULL, "the part was not written in one piece")
    return digest


def verify_whole(part_fd: int, size: int, digest: str) -> None:
    """Read the part back. Raises RetryError where it is not what was written; the caller has dropped the cache."""
    if is_direct(size):
        # It was left where the file's end does not fill a sector.
        go_direct(part_fd)
    with buffer() as chunk:
        found = blake3(_read(part_fd, chunk, size), max_threads=1).hexdigest()
    if found != digest:
        raise RetryError(Reason.COPY_DIFFERS, f"written with digest {digest}, read back with {found}")


def is_direct(size: int) -> bool:
    """Whether a part of this size is written and read past the page cache."""
    return size >= DIRECT_BYTES


def _read(fd: int, chunk: memoryview, size: int) -> memoryview:
    """The content, valid as long as the chunk. Raises RetryError where the file has another size by now."""
    count = read_at(fd, chunk[: aligned(size + 1)], 0)
    if count != size:
        raise RetryError(Reason.SOURCE_CHANGED, f"{size} bytes became {count}")
    return chunk[:size]
