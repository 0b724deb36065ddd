"""Room for a copy, asked for before it is needed: a full disk is met now, and not after an hour of copying."""

from __future__ import annotations

import ctypes
import errno
import os

from services.mover.beneath import doing
from services.mover.kernel import libc
from services.mover.streaming import CHUNK_BYTES

_KEEP_SIZE = 1
_STEP_BYTES = 512 << 10
"""Reserved at a time: as long as that takes, nobody can write."""
_AHEAD_BYTES = 8 << 20
_REFUSED = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def reserve(part_fd: int, size: int) -> None:
    """All of it at once. Raises RetryError or DeadLetterError."""
    if size > CHUNK_BYTES:  # the first write tells as soon
        _fallocate(part_fd, 0, 0, size)


def check_room(part_fd: int, size: int) -> None:
    """Raises RetryError where there are fewer bytes left; nothing is reserved by it."""
    with doing(f"copy {size} bytes"):
        found = os.fstatvfs(part_fd)
        # Of a tmpfs without a limit, all numbers are 0.
        if found.f_blocks and found.f_bavail * found.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class RoomAhead:
    """Reserves what is written next, a step at a time."""

    def __init__(self, part_fd: int, size: int) -> None:
        """`size` is what the part will have."""
        self._part_fd = part_fd
        self._size = size
        self._reserved = 0

    def step(self, written: int) -> bool:
        """False where there is room enough for now. Raises RetryError or DeadLetterError."""
        # The chunk behind what is written is being written, and gets its room by that.
        start = max(self._reserved, written + CHUNK_BYTES)
        count = min(_STEP_BYTES, self._size - start, written + _AHEAD_BYTES - start)
        if count <= 0:
            return False
        # The file's size is that of what was written: a copy that somebody cuts must not get it back.
        _fallocate(self._part_fd, _KEEP_SIZE, start, count)
        self._reserved = start + count
        return True


def _fallocate(part_fd: int, mode: int, start: int, count: int) -> None:
    # Not os.posix_fallocate: where the file system cannot, glibc writes a byte into each block instead.
    with doing(f"reserve {count} bytes for the copy"):
        if libc().fallocate(part_fd, mode, ctypes.c_int64(start), ctypes.c_int64(count)) != 0:
            number = ctypes.get_errno()
            if number not in _REFUSED:
                raise OSError(number, os.strerror(number))
