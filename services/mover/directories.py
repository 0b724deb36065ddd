"""The directories in which a batch of file work is done, each walked to and opened once."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack

from services.mover.beneath import open_parent
from services.mover.identity import Entry
from services.mover.markers import open_level


class Directories:
    """Descriptors of levels' roots and of the directories beneath them, until `close`.

    What is opened stays the same directory, whatever its name means later: a batch takes milliseconds, and what is
    done in a directory that was moved or removed meanwhile shows up as an entry that is missing.
    """

    def __init__(self, marked: Collection[str]) -> None:
        """`marked` are the paths whose levels have a marker: where it is missing, the level is not mounted."""
        self._marked = marked
        self._held = ExitStack()
        self._roots: dict[str, int] = {}
        self._parents: dict[tuple[str, str], int] = {}
        self._stats: dict[int, os.stat_result] = {}

    def close(self) -> None:
        """Afterwards no entry that this handed out means anything."""
        self._held.close()
        self._roots.clear()
        self._parents.clear()
        self._stats.clear()

    def root(self, path: str) -> int:
        """The level's directory. Raises RetryError where it cannot be opened, or is not mounted."""
        root = self._roots.get(path)
        if root is None:
            root = self._held.enter_context(open_level(path, marked=path in self._marked))
            self._roots[path] = root
        return root

    def entry(self, path: str, filename: str, *, like: str | None = None) -> Entry:
        """The file's entry beneath the level at `path`; `like` and the errors are those of `open_parent`."""
        directory, _, name = filename.rpartition("/")
        parent = self._parents.get((path, directory))
        if parent is None:
            model = None if like is None else self.root(like)
            found = self._held.enter_context(open_parent(self.root(path), filename, like=model))
            self._parents[path, directory] = found.directory
            return found
        return Entry(parent, name)

    def stat(self, fd: int) -> os.stat_result:
        """What the open directory is: its device and inode stay what they are."""
        found = self._stats.get(fd)
        if found is None:
            found = self._stats[fd] = os.fstat(fd)
        return found
