"""Look at the files of contents, reached beneath their levels' directories. Blocking; changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from cli.audit.judge import Sameness, Sight
from services.mover.beneath import open_file, open_parent, open_root
from services.mover.copying import digest_of
from services.mover.identity import OpenFile, same_inode
from shared.catalog import Tracked
from shared.errors import ReshelveError
from shared.levels import Levels


@dataclass(frozen=True, slots=True)
class Seen:
    """Per content what stands on which level; levels without a directory are out of sight."""

    sights: Mapping[str, Mapping[str, Sight]]
    out_of_sight: frozenset[str]


def look_at(rows: Sequence[Tracked], levels: Levels) -> Seen:
    """Look for each content's file on every level."""
    sights: dict[str, dict[str, Sight]] = {row.cid: {} for row in rows}
    out_of_sight = set()
    for level in levels:
        name = level.content_level
        try:
            with open_root(level.path) as root:
                for row in rows:
                    sight = _sight(root, row.filename)
                    if sight is not None:
                        sights[row.cid][name] = sight
        except ReshelveError:
            out_of_sight.add(name)
    return Seen(sights, frozenset(out_of_sight))


def _sight(root: int, filename: str) -> Sight | None:
    try:
        with open_parent(root, filename) as entry:
            found = entry.stat()
    except FileNotFoundError:
        return None
    except (ReshelveError, OSError) as error:
        return Sight("unreadable", detail=str(error))
    if found is None:
        return None
    kind = "file" if stat.S_ISREG(found.st_mode) else "other"
    return Sight(kind, found.st_size, max(found.st_mtime, found.st_ctime))  # type: ignore[arg-type]  # one of the two


def compare(filename: str, one_path: str, other_path: str) -> Sameness:
    """How the files of this name beneath two levels' directories compare; reads both where their sizes are equal.

    Unlike a mover's check it makes no probe file, so a directory that is mounted twice under different device numbers
    looks like two: whoever removes a copy must check again.
    """
    with suppress(ReshelveError, OSError), ExitStack() as held:
        one, other = (_opened(path, filename, held) for path in (one_path, other_path))
        if same_inode(os.fstat(one.entry.directory), os.fstat(other.entry.directory)):
            return "one entry"
        if same_inode(one.stat, other.stat):
            return "one inode"
        if one.stat.st_size != other.stat.st_size:
            return "other size"
        digests = {digest_of(file.fd, file.stat.st_size, lambda: False) for file in (one, other)}
        if one.is_unchanged() and other.is_unchanged():
            return "same content" if len(digests) == 1 else "other content"
    return "not compared"


def _opened(path: str, filename: str, held: ExitStack) -> OpenFile:
    root = held.enter_context(open_root(path))
    return held.enter_context(open_file(held.enter_context(open_parent(root, filename))))
