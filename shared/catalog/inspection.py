"""What an audit asks the catalog: many rows, paced by whoever asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.catalog import sql
from shared.catalog.connections import Connections


@dataclass(frozen=True, slots=True)
class Tracked:
    """A content's row; `bytes` is its size at its latest relocation, None where it never had one."""

    cid: str
    level: str
    filename: str
    bytes: int | None


class Inspection:
    """All methods raise CatalogDownError where MySQL cannot answer."""

    def __init__(self, connections: Connections) -> None:
        """Reads through `connections`."""
        self._connections = connections

    async def page(self, after: str, limit: int) -> list[Tracked]:
        """The next rows in the order of their cids after `after`; empty at the end."""
        return await self._rows(sql.TRACKED_PAGE, (after, limit))

    async def tracked(self, cids: Sequence[str]) -> dict[str, Tracked]:
        """The rows of those `cids` that are tracked."""
        return {row.cid: row for row in await self._rows(sql.TRACKED, (tuple(cids),))} if cids else {}

    async def among(self, filenames: Sequence[str]) -> set[str]:
        """Those of the filenames that some content has."""
        if not filenames:
            return set()
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.FILENAMES, (tuple(filenames),))
            return {row[0] for row in await cursor.fetchall()}

    @asynccontextmanager
    async def held(self, cid: str) -> AsyncIterator[tuple[str, str] | None]:
        """The content's (level, filename), which nobody can change until the block ends; None where it has no row."""
        async with self._connections.transaction() as cursor:
            await cursor.execute(sql.HOLD_CONTENT, (cid,))
            row = await cursor.fetchone()
            yield (row[0], row[1]) if row else None

    async def _rows(self, query: str, arguments: tuple[object, ...]) -> list[Tracked]:
        async with self._connections.cursor() as cursor:
            await cursor.execute(query, arguments)
            return [Tracked(*row) for row in await cursor.fetchall()]
