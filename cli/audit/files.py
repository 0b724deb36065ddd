"""Go through the files on a level as they come, and remove stray parts. Blocking."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from services.mover.beneath import DIRECTORY_FLAGS, open_parent, open_root, sync_directory
from services.mover.identity import Entry
from shared.names import LEVEL_MARKER, PART_PREFIX

_PART = re.compile(re.escape(PART_PREFIX) + r"([A-Za-z0-9-]{1,64})\.\d+(\.probe)?\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """A name on a level that is no directory; `move_id` where it is a mover's part."""

    filename: str
    kind: str
    move_id: str = ""


def walk(path: str, limit: int) -> Iterator[list[Found]]:
    """Everything below a level's directory, `limit` at a time, in the order of the disk; follows no symbolic link.

    Holds one directory open per depth, and one page. A directory that cannot be read is of the kind `unreadable`.
    Raises RetryError where the level itself cannot be opened.
    """
    with open_root(path) as root, closing(_below(root, "")) as found:
        while page := list(islice(found, limit)):
            yield page


def _below(directory: int, prefix: str) -> Generator[Found, None, None]:
    with os.scandir(directory) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _step(directory, entry.name, name)
            elif entry.name != LEVEL_MARKER or prefix:
                yield Found(name, _kind(entry), part_move_id(entry.name))


def _step(parent: int, name: str, filename: str) -> Iterator[Found]:
    try:
        below = os.open(name, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Found(filename, f"unreadable: {error.strerror}")
        return
    try:
        yield from _below(below, f"{filename}/")
    finally:
        os.close(below)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "symbolic link"
    return "file" if entry.is_file(follow_symlinks=False) else "special file"


def part_move_id(filename: str) -> str:
    """The move that a part belongs to; empty for any other file."""
    part = _PART.match(filename.rpartition("/")[2])
    return part[1] if part else ""


def part_age_s(path: str, filename: str) -> float | None:
    """How long ago the part was last changed or linked; None where it is gone. Raises ReshelveError, OSError."""
    with suppress(FileNotFoundError), _part(path, filename) as part:
        return _age_s(part)
    return None


def remove_part(path: str, filename: str, min_age_s: float) -> bool:
    """Remove a part; False where it is gone or was changed a moment ago. Raises ReshelveError, OSError."""
    with suppress(FileNotFoundError), _part(path, filename) as part:
        age_s = _age_s(part)
        if age_s is None or age_s < min_age_s:
            return False
        os.unlink(part.name, dir_fd=part.directory)
        sync_directory(part.directory)
        return True
    return False


@contextmanager
def _part(path: str, filename: str) -> Iterator[Entry]:
    directories, _, name = filename.rpartition("/")
    # No content may be called as a part is: reach the directory by a name that one may have.
    with open_root(path) as root, open_parent(root, f"{directories}/part".lstrip("/")) as beside:
        yield Entry(beside.directory, name)


def _age_s(part: Entry) -> float | None:
    found = part.stat()
    # A part that is a hard link has its source's mtime; to link it changed the ctime.
    return None if found is None else time.time() - max(found.st_mtime, found.st_ctime)
