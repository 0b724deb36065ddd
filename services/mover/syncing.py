"""Make many files or directories durable at once: one `syncfs` in place of an fsync each, where that promises as much.

One syncfs for 250 new files of 4 KiB takes about as long as a single fsync, since either ends in one commit of the
file system's journal and one flush of the device; 250 fsyncs are 250 of them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections import defaultdict
from collections.abc import Sequence

from services.mover.beneath import Reason, sync_directory
from services.mover.copying import sync_file
from services.mover.kernel import BTRFS, EXT4, F2FS, TMPFS, XFS, file_system_of, libc
from shared.errors import RetryError

TOGETHER = 8
"""So many are worth a syncfs, which also waits for what strangers have written to that file system."""

# Their syncfs writes all that is dirty, waits for it, commits and flushes. A file system in user space may not even
# hear of it, and a network's file system keeps its own promises file by file.
_LOCAL = {EXT4, XFS, BTRFS, F2FS, TMPFS}
_SYNCFS_TELLS = (5, 8)
"""Older kernels answer 0 where pages could not be written (linux 735e4ae5ba28)."""


def sync_files(fds: Sequence[int]) -> None:
    """Returns when all these new files are durable. Raises RetryError: then none of them is to be trusted.

    `fds` in the order in which they were opened, nothing written before that: what went wrong since is then known.
    """
    for of_device in _by_device(fds).values():
        if len(of_device) >= TOGETHER and _sync_file_system(of_device[0]):
            continue
        for fd in of_device:
            sync_file(fd)


def sync_directories(fds: Sequence[int]) -> None:
    """Returns when the names in all these directories are durable. Raises RetryError where that failed for any."""
    for of_device in _by_device(fds).values():
        if len(of_device) >= TOGETHER and _sync_file_system(of_device[0]):
            continue
        for fd in of_device:
            sync_directory(fd)


def _by_device(fds: Sequence[int]) -> dict[int, list[int]]:
    """A level may have other file systems mounted within."""
    if len(fds) < TOGETHER:
        return {0: list(fds)}
    found: dict[int, list[int]] = defaultdict(list)
    for fd in fds:
        found[os.fstat(fd).st_dev].append(fd)
    return found


def _sync_file_system(fd: int) -> bool:
    """False where syncfs promises less than fsync. Errors since `fd` was opened are reported to it."""
    if not _tells_errors() or file_system_of(fd) not in _LOCAL:
        return False
    if libc().syncfs(fd) != 0:
        problem = os.strerror(ctypes.get_errno())
        raise RetryError(Reason.FSYNC_FAILED, f"{problem}: the copies are not trusted; check the device")
    return True


@functools.cache
def _tells_errors() -> bool:
    major, minor = platform.release().split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= _SYNCFS_TELLS
