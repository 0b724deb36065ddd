"""Storage levels: which counts belong where, and which level tables are sound. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shared.errors import InvalidError

COUNT_MAX = 2**53 - 1
"""The largest count: what Redis' Lua numbers and JSON readers hold exactly. Counts stop there instead of wrapping."""
UNBOUNDED = COUNT_MAX + 1
"""The upper end of a band that nothing leaves upwards."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_PATH_MAX_CHARACTERS = 700


@dataclass(frozen=True, slots=True)
class Level:
    """One storage tier: counts from `min_counts` to `max_counts`, both included, belong in the directory `path`."""

    content_level: str
    min_counts: int
    max_counts: int
    path: str


@dataclass(frozen=True, slots=True)
class Band:
    """The counts `lo <= count < hi` in which a content needs no review."""

    lo: int
    hi: int


class Levels:
    """A sound level table, lowest range first."""

    def __init__(self, levels: Iterable[Level]) -> None:
        """Raises InvalidError for a table that leaves a count to no level or to two."""
        given = list(levels)
        for level in given:
            _check_level(level)
        self._levels: Sequence[Level] = sorted(given, key=lambda level: level.min_counts)
        _check(self._levels)
        self._by_name = {level.content_level: level for level in self._levels}

    def __iter__(self) -> Iterator[Level]:
        return iter(self._levels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Levels) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self._levels))

    def get(self, name: str) -> Level | None:
        """The level of that name, if there is one."""
        return self._by_name.get(name)

    @property
    def default(self) -> Level:
        """Where a content starts: the level whose min_counts is 0."""
        return self._levels[0]

    def level_for(self, count: int) -> Level:
        """The level that `count` asks for; a count above the highest max_counts belongs to the highest level."""
        for level in self._levels:
            if count <= level.max_counts:
                return level
        return self._levels[-1]

    def band(self, level: Level) -> Band:
        """The counts that keep a content on `level`; the highest level's has no upper end."""
        top = level == self._levels[-1]
        return Band(level.min_counts, UNBOUNDED if top else level.max_counts + 1)


def _check(levels: Sequence[Level]) -> None:
    if not levels:
        raise InvalidError("the level table is empty: give at least one level with min_counts 0")
    names = [level.content_level for level in levels]
    if len(set(names)) != len(names):
        raise InvalidError("two levels have the same content_level: give each its own name")
    _check_paths(levels)
    if levels[0].min_counts != 0:
        first = levels[0]
        raise InvalidError(
            f"level ranges leave 0-{first.min_counts - 1} to nobody: start {first.content_level} at 0",
        )
    for below, above in pairwise(levels):
        _check_joint(below, above)


def _check_level(level: Level) -> None:
    name = level.content_level
    if not isinstance(name, str) or _NAME.match(name) is None:
        raise InvalidError(f"content_level {name!r} is not 1-64 characters of A-Za-z0-9._-")
    for field, value in (("min_counts", level.min_counts), ("max_counts", level.max_counts)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
            raise InvalidError(f"{field} of {name} must be an integer from 0 to {COUNT_MAX}, got {value!r}")
    if level.max_counts < level.min_counts:
        raise InvalidError(f"{name} ends at {level.max_counts}, before it starts at {level.min_counts}: swap them")
    path = level.path
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path or len(path) > _PATH_MAX_CHARACTERS:
        raise InvalidError(f"path of {name} must be an absolute path of at most {_PATH_MAX_CHARACTERS} characters")
    if posixpath.normpath(path) != path or path == "/" or path.startswith("//"):
        raise InvalidError(f"path of {name} must be a plain absolute directory without '.', '..' or a trailing slash")


def _check_paths(levels: Sequence[Level]) -> None:
    # A directory in two levels, or one inside another, would make one file lie on two levels at once.
    for one in levels:
        for other in levels:
            if one is not other and f"{other.path}/".startswith(f"{one.path}/"):
                raise InvalidError(
                    f"the directory of {other.content_level} lies within that of {one.content_level}: "
                    "give each level a directory of its own",
                )


def _check_joint(below: Level, above: Level) -> None:
    if above.min_counts <= below.max_counts:
        raise InvalidError(
            f"{below.content_level} and {above.content_level} both claim {above.min_counts}-"
            f"{min(below.max_counts, above.max_counts)}: start {above.content_level} at {below.max_counts + 1}",
        )
    if above.min_counts != below.max_counts + 1:
        raise InvalidError(
            f"level ranges leave {below.max_counts + 1}-{above.min_counts - 1} to nobody: "
            f"start {above.content_level} at {below.max_counts + 1}",
        )
