"""Which file a directory entry means, and whether two entries are one and the same.

Errors of the file system pass through as OSError: `beneath.doing` says what they mean.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from shared.names import PART_PREFIX

# A move_id becomes part of a file's name, and it came over the wire: no slash may get in.
_MOVE_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")


class Entry(NamedTuple):
    """A name in an open directory. The file that it means may be another one at every look."""

    directory: int
    name: str

    def stat(self) -> os.stat_result | None:
        """The entry itself, a symbolic link not followed; None where nothing stands."""
        try:
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None


class OpenFile(NamedTuple):
    """A regular file held open, the entry it was opened by, and what it was at that moment."""

    entry: Entry
    fd: int
    stat: os.stat_result

    def is_unchanged(self) -> bool:
        """True while the file is what it was, and its entry still means this very file."""
        named = self.entry.stat()
        return named is not None and _version(named) == _version(self.stat)


def file_id(stat: os.stat_result) -> str:
    """`ino:size:mtime_ns`. No device number: it differs from host to host for the same mounted file system."""
    return f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"


def _version(stat: os.stat_result) -> tuple[int, int, int]:
    """What `file_id` says, to be compared on this host."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def same_inode(one: os.stat_result, other: os.stat_result) -> bool:
    """True for two sights of one file. False proves nothing where the device numbers differ."""
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


def is_move_id(move_id: str) -> bool:
    """True for 1-64 letters, digits and dashes: what may stand in the name of a part."""
    return _MOVE_ID.match(move_id) is not None


def part_name(move_id: str, attempt: int) -> str:
    """The unfinished copy of one attempt. An attempt's number is its fencing token: nobody else writes there."""
    return f"{PART_PREFIX}{move_id}.{attempt}"


def probe_name(move_id: str, attempt: int) -> str:
    return f"{part_name(move_id, attempt)}.probe"


def same_directory(one: int, other: int, probe: str) -> bool:
    """True when two open directories are one, by whatever numbers their mounts call it.

    Equal numbers say so at once. Different ones prove nothing (a share mounted twice, an alias on a server), so an
    empty file `probe` is made in `other`, looked for in `one`, and removed. Its name must not have been looked up in
    `one` before: a network mount may remember that it was missing.
    """
    if same_inode(os.fstat(one), os.fstat(other)):
        return True
    _make_probe(Entry(other, probe))
    try:
        return Entry(one, probe).stat() is not None
    finally:
        discard(Entry(other, probe))


def _make_probe(probe: Entry) -> None:
    # No O_EXCL: an attempt that was killed may have left its probe, which serves as well.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(probe.name, flags, 0o600, dir_fd=probe.directory))


def discard(own: Entry) -> None:
    """Remove a part or probe of our own, as far as that is possible: what stays harms nobody and is swept later."""
    try:
        os.unlink(own.name, dir_fd=own.directory)
    except OSError:
        return
