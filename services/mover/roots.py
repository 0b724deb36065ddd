"""Which directories this mover may touch."""

from __future__ import annotations

from collections.abc import Sequence

from shared.catalog import Catalog
from shared.messages import Move, Placed


class Roots:
    """The allow-list of the settings, or the level table's paths where there is none."""

    def __init__(self, catalog: Catalog, allowed: Sequence[str]) -> None:
        """`allowed` empty means the level table's paths."""
        self._catalog = catalog
        self._allowed = tuple(allowed)
        self._fixed = bool(allowed)

    async def covering(self, work: Move | Placed) -> Sequence[str]:
        """The directories that may be touched, read anew when they do not cover the work's: levels come and go.

        Raises CatalogDownError.
        """
        if not self._fixed and not {work.from_path, work.to_path} <= set(self._allowed):
            self._allowed = tuple(level.path for level in await self._catalog.levels())
        return self._allowed
