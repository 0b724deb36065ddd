"""Which files lie below a directory, and what each would be called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from blake3 import blake3

from shared.errors import InvalidError
from shared.names import PART_PREFIX, check_cid, check_filename

CidFrom = Literal["stem", "name", "path"]

_HASH_DIGITS = 16


@dataclass(slots=True)
class Found:
    """`contents` are (cid, filename), no cid twice; `refused` are filenames with the reason."""

    contents: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """What was passed over on purpose, by kind."""


def cid_of(filename: str, cid_from: CidFrom) -> str:
    """The cid that a file gets: its name without the last suffix, its name, or a hash of its path.

    Raises InvalidError where that is no cid.
    """
    if cid_from == "path":
        return blake3(filename.encode()).hexdigest()[:_HASH_DIGITS]
    name = PurePosixPath(filename)
    try:
        return check_cid(name.stem if cid_from == "stem" else name.name)
    except InvalidError as error:
        raise InvalidError(f"{error}: rename the file, or use --cid-from path") from None


def walk(level_path: str, below: Path, cid_from: CidFrom, count: Callable[[int], None]) -> Found:
    """The regular files below `below`, a resolved path, named relative to the level's path; no link is followed.

    `count` is told now and then how many files there are so far.
    """
    found, root = Found(), Path(level_path).resolve()
    owners: dict[str, str] = {}
    for at, path in enumerate(_files(below, root, found)):
        filename = path.removeprefix(f"{root}/")
        try:
            check_filename(filename)
            cid = cid_of(filename, cid_from)
        except InvalidError as error:
            found.refused.append((filename, str(error)))
            continue
        owner = owners.setdefault(cid, filename)
        if owner == filename:
            found.contents.append((cid, filename))
        else:
            found.refused.append((filename, f"cid {cid!r} is that of {owner!r} too: use --cid-from path"))
        if at % 1000 == 0:
            count(at)
    return found


def _files(below: Path, root: Path, found: Found) -> Iterator[str]:
    """In the order of their names, so that of two files with one cid it is always the same that gets it."""
    directories = [str(below)]
    while directories:
        directory = directories.pop()
        try:
            with os.scandir(directory) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            name = directory.removeprefix(f"{root}/")
            found.refused.append((name, f"the directory cannot be read: {error.strerror}"))
            continue
        for entry in ordered:
            kind = _kind(entry)
            if kind == "file":
                yield entry.path
            elif kind == "directory":
                directories.append(entry.path)
            else:
                found.skipped[kind] += 1


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.name.startswith(PART_PREFIX):
        return "mover's own"
    if entry.is_symlink():
        return "symbolic link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "special file"
