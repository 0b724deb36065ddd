"""Locks between movers, on the very file that one of them is about to publish, adopt or remove."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from services.mover.beneath import Reason, doing
from services.mover.identity import OpenFile
from shared.errors import RetryError


@contextmanager
def locked(file: OpenFile, busy: Reason, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a flock on the file, also against another mover on this file system. Raises RetryError(busy)."""
    with doing(f"lock {file.entry.name!r}"):
        try:
            holder = _flock(file.fd, how)
        except BlockingIOError:
            raise RetryError(busy, f"{file.entry.name!r} is locked by another process: wait or end it") from None
    try:
        yield
    finally:
        if holder == file.fd:
            fcntl.flock(holder, fcntl.LOCK_UN)
        else:
            os.close(holder)


def _flock(fd: int, how: int) -> int:
    """The descriptor that holds the lock: `fd`, or a new one."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    else:
        return fd
    # NFS turns a flock into a record lock, which wants a descriptor that is open for writing.
    writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(writable, how | fcntl.LOCK_NB)
    except BaseException:
        os.close(writable)
        raise
    return writable
