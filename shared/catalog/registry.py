"""What is tracked, and on which levels: the changes that people ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import orjson

from shared.catalog import sql
from shared.catalog.connections import CatalogDuplicateError, Connections
from shared.errors import ReshelveError
from shared.levels import Levels


class TakenError(ReshelveError):
    """The cid or the filename is tracked already; the text says which."""


class LevelInUseError(ReshelveError):
    """A level that holds contents can neither go nor change its path."""


class Registry:
    """All methods raise CatalogDownError where MySQL cannot answer."""

    def __init__(self, connections: Connections) -> None:
        """Writes through `connections`."""
        self._connections = connections

    async def register(self, cid: str, filename: str, level: str) -> None:
        """Track a content. Raises TakenError."""
        try:
            async with self._connections.cursor() as cursor:
                await cursor.execute(sql.REGISTER, (cid, level, filename))
        except CatalogDuplicateError as error:
            # The message ends with the key's name: 'PRIMARY', 'contents.PRIMARY', 'filename', …
            key = str(error).rsplit("key", 1)[-1]
            taken = f"cid {cid!r}" if "PRIMARY" in key else f"filename {filename!r}"
            raise TakenError(f"{taken} is tracked already: choose another") from None

    async def register_many(self, contents: Sequence[tuple[str, str]], level: str) -> list[tuple[str, str]]:
        """Track (cid, filename) pairs in one statement; returns those refused because cid or filename is taken.

        A pair that is tracked exactly so already is not refused: an import can be run again.
        """
        packed = orjson.dumps(contents).decode()
        async with self._connections.transaction() as cursor:
            await cursor.execute(sql.REGISTER_MANY, (level, packed))
            if cursor.rowcount == len(contents):
                return []
            await cursor.execute(sql.FIND_MANY, (packed,))
            there = dict(await cursor.fetchall())
        return [(cid, filename) for cid, filename in contents if there.get(cid) != filename]

    async def forget(self, cid: str, release: Callable[[], Awaitable[str]]) -> str | None:
        """End the tracking: None when there is no such content, else what `release` returned.

        `release` ends the tracking in Redis while the row is locked; any text it returns forbids the deletion.
        """
        async with self._connections.transaction() as cursor:
            await cursor.execute(sql.LOCK_ROW, (cid,))
            if await cursor.fetchone() is None:
                return None
            forbidden = await release()
            if not forbidden:
                await cursor.execute(sql.FORGET, (cid,))
            return forbidden

    async def replace_levels(self, levels: Levels) -> None:
        """Put `levels` in place of the level table. Raises LevelInUseError."""
        async with self._connections.transaction() as cursor:
            await cursor.execute(sql.LOCK_LEVELS)
            paths: dict[str, str] = dict(await cursor.fetchall())
            kept = set()
            for name, path in paths.items():
                await cursor.execute(sql.LEVEL_IN_USE, (name,))
                if await cursor.fetchone() is None:
                    await cursor.execute(sql.DELETE_LEVEL, (name,))
                    continue
                kept.add(name)
                wanted = levels.get(name)
                if wanted is None:
                    raise LevelInUseError(f"level {name} holds contents: keep it, with any range")
                if wanted.path != path:
                    raise LevelInUseError(f"level {name} holds contents: its path must stay {path}")
            for level in levels:
                values = (level.min_counts, level.max_counts)
                if level.content_level in kept:
                    await cursor.execute(sql.UPDATE_LEVEL, (*values, level.content_level))
                else:
                    await cursor.execute(sql.INSERT_LEVEL, (level.content_level, *values, level.path))
