"""What Python does not offer of the kernel: the C library's calls, and which kind of file system something is on."""

from __future__ import annotations

import ctypes
import functools

# f_type of statfs(2)
EXT4 = 0xEF53
XFS = 0x58465342
BTRFS = 0x9123683E
F2FS = 0xF2F52010
TMPFS = 0x01021994


@functools.cache
def libc() -> ctypes.CDLL:
    """Its functions set `ctypes.get_errno()`."""
    return ctypes.CDLL(None, use_errno=True)


def file_system_of(fd: int) -> int:
    """`f_type` of statfs(2), 0 where it does not tell: the first word, whose size varies by architecture as a long."""
    answer = (ctypes.c_long * 64)()
    return answer[0] if libc().fstatfs(fd, answer) == 0 else 0
