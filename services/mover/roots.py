"""Which directories this mover may touch, and whether a move still goes by the level table."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from services.mover.place import check_roots
from shared.catalog import Catalog
from shared.errors import ReshelveError
from shared.messages import Move, Placed

_FRESH_S = 1.0
"""As often as the planner, the mover reads the level table anew."""


class OutdatedError(ReshelveError):
    """The level table no longer says what the move says, and nothing was placed: to be planned anew."""


class Roots:
    """The allow-list of the settings, or the level table's paths where there is none."""

    def __init__(self, catalog: Catalog, allowed: Sequence[str]) -> None:
        """`allowed` empty means the level table's paths."""
        self._catalog = catalog
        self._allowed = tuple(allowed)
        self._paths: Mapping[str, str] = {}
        self._read_at = -math.inf
        self._reading = asyncio.Lock()

    async def covering(self, work: Move | Placed) -> Collection[str]:
        """The directories that may be touched. Raises CatalogDownError."""
        if self._allowed:
            return self._allowed
        wanted = {work.from_path, work.to_path}
        return (await self._table(lambda paths: wanted <= set(paths.values()))).values()

    async def check(self, move: Move) -> None:
        """Raises OutdatedError where a level of the move is gone or lies elsewhere now: a second later at the latest.

        Raises DeadLetterError where a path is not in the allow-list, and CatalogDownError.
        """
        if self._allowed:
            check_roots(move, self._allowed)
        planned = {move.from_level: move.from_path, move.to_level: move.to_path}
        paths = await self._table(lambda paths: planned.items() <= paths.items())
        for level, path in planned.items():
            if paths.get(level) != path:
                there = f"now has the path {paths[level]!r}" if level in paths else "is gone"
                raise OutdatedError(f"planned with {level} at {path!r}: in the level table it {there}")
        if not self._allowed:
            check_roots(move, paths.values())

    async def _table(self, suits: Callable[[Mapping[str, str]], bool]) -> Mapping[str, str]:
        """Paths by level; read anew where they are old, or do not suit: levels come and go."""
        async with self._reading:
            if time.monotonic() - self._read_at > _FRESH_S or not suits(self._paths):
                began = time.monotonic()
                self._paths = await self._catalog.level_paths()
                self._read_at = began
            return self._paths
