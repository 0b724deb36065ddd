"""Reading the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.catalog import sql
from shared.catalog.connections import Connections
from shared.levels import COUNT_MAX, Level, Levels


@dataclass(frozen=True, slots=True)
class Row:
    """A content's row; `last_count` is the count of its latest relocation, if it ever had one."""

    cid: str
    level: str
    filename: str
    last_count: int | None


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A row of `update_history`; times are ms."""

    id: int
    old_update_time: int
    old_content_level: str
    new_update_time: int
    new_content_level: str


@dataclass(frozen=True, slots=True)
class Relocation:
    """A row of `relocations`; times are ms."""

    move_id: str
    from_level: str
    to_level: str
    count: int
    why: str
    bytes: int
    digest: str
    method: str
    mover: str
    attempts: int
    planned_at: int
    placed_at: int
    committed_at: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A row of `drops`: a dead letter that an operator dropped, and why; `dropped_at` is ms."""

    id: int
    letter: str
    move_id: str
    stream: str
    reason: str
    why: str
    dropped_at: int


def milliseconds(time: datetime) -> int:
    """Since the epoch, of a time that the catalog holds in UTC."""
    return round(time.replace(tzinfo=UTC).timestamp() * 1000)


class Catalog:
    """All methods raise CatalogDownError where MySQL cannot answer."""

    def __init__(self, connections: Connections) -> None:
        """Reads through `connections`."""
        self._connections = connections

    async def ping(self) -> None:
        """Returns when MySQL has answered."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.PING)

    async def levels(self) -> Levels:
        """The level table. Raises InvalidError where it is not sound."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.LEVELS)
            return Levels(Level(*row) for row in await cursor.fetchall())

    async def level_paths(self) -> dict[str, str]:
        """Each level's directory, also while the ranges do not join, as they do in the midst of changes by hand."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.LEVEL_PATHS)
            return dict(await cursor.fetchall())

    async def rows(self, cids: Sequence[str]) -> dict[str, Row]:
        """The rows of those `cids` that are tracked."""
        if not cids:
            return {}
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.ROWS, (tuple(cids),))
            return {row[0]: Row(*row) for row in await cursor.fetchall()}

    async def places(self, cids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Level and filename of those `cids` that are tracked."""
        if not cids:
            return {}
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.PLACES, (tuple(cids),))
            return {cid: (level, filename) for cid, level, filename in await cursor.fetchall()}

    async def page(self, after: str, limit: int) -> list[tuple[str, bool]]:
        """The next cids in order after `after`, each with whether it was ever relocated; empty at the end."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.PAGE, (after, limit))
            return [(cid, bool(relocated)) for cid, relocated in await cursor.fetchall()]

    async def count_by_level(self) -> dict[str, int]:
        """How many contents each level holds."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.COUNT_BY_LEVEL)
            return dict(await cursor.fetchall())

    async def level_changes(self, cid: str, limit: int, before: int = COUNT_MAX) -> list[LevelChange]:
        """Rows of `update_history`, newest first, with an id below `before`."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.UPDATES, (cid, before, limit))
            return [
                LevelChange(id_, milliseconds(old_time), old, milliseconds(new_time), new)
                for id_, old_time, old, new_time, new in await cursor.fetchall()
            ]

    async def relocations(self, cid: str, limit: int, before: tuple[int, str] = (COUNT_MAX, "")) -> list[Relocation]:
        """Rows of `relocations`, newest first, whose (committed_at, move_id) is below `before`."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.RELOCATIONS, (cid, *before, limit))
            return [Relocation(*row) for row in await cursor.fetchall()]

    async def drops(self, cid: str, limit: int, before: tuple[int, int] = (COUNT_MAX, 0)) -> list[Drop]:
        """Rows of `drops`, newest first, whose (dropped_at, id) is below `before`."""
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.DROPS, (cid, *before, limit))
            return [Drop(*row) for row in await cursor.fetchall()]
