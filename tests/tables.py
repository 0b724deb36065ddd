"""The tables as an operator sees them: plain SQL, by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncmy

from shared.mysql_url import parse_mysql_url


class Tables:
    """One database; every statement commits by itself."""

    def __init__(self, url: str) -> None:
        self._arguments = parse_mysql_url(url).connect_arguments()

    async def query(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        async with self.session() as run:
            rows: list[tuple[Any, ...]] = await run(sql, arguments)
            return rows

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """`await run(sql)` on one connection, for transactions by hand; what is open at the end is rolled back."""
        connection = await asyncmy.connect(**self._arguments, autocommit=True)

        async def run(sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            async with connection.cursor() as cursor:
                await cursor.execute(sql, tuple(arguments) or None)
                return list(await cursor.fetchall())

        try:
            yield run
        finally:
            connection.close()

    async def put(self, cid: str, level: str = "bronze", filename: str | None = None) -> None:
        """A tracked content; its file is of no concern here."""
        await self.query(
            "INSERT INTO contents (cid, content_level, filename) VALUES (%s, %s, %s)",
            (cid, level, filename or f"dir/{cid}.mp4"),
        )

    async def put_relocation(self, cid: str, move_id: str, *, count: int = 7, committed_at: int = 1000) -> None:
        await self.query(
            "INSERT INTO relocations VALUES (%s, %s, 'bronze', 'silver', %s, 'why', 1, '', 'link', 'm', 1, 2, 3, %s)",
            (move_id, cid, count, committed_at),
        )

    async def levels_of(self) -> dict[str, str]:
        """On which level each content is."""
        rows = await self.query("SELECT cid, content_level FROM contents")
        return {cid: level for cid, level in rows}  # noqa: C416  # rows are tuples of any length

    async def history(self) -> list[tuple[str, str, str]]:
        """`update_history`, oldest first: (cid, old level, new level)"""
        sql = "SELECT cid, old_content_level, new_content_level FROM update_history ORDER BY id"
        return [(cid, old, new) for cid, old, new in await self.query(sql)]

    async def relocated(self) -> list[tuple[str, str, str, str]]:
        """`relocations`: (move_id, cid, from, to)"""
        sql = "SELECT move_id, cid, from_level, to_level FROM relocations ORDER BY move_id"
        return [(move_id, cid, old, new) for move_id, cid, old, new in await self.query(sql)]

    @asynccontextmanager
    async def refusing(self, allowed: str) -> AsyncIterator[None]:
        """Rows of `relocations` that are not allowed are refused, by a constraint as an operator may add one."""
        await self.query(f"ALTER TABLE relocations ADD CONSTRAINT refusing CHECK ({allowed})")
        try:
            yield
        finally:
            await self.query("ALTER TABLE relocations DROP CONSTRAINT refusing")

    async def kill(self, containing: str) -> int:
        """KILL the connections whose statement contains the text; how many there were."""
        async with self.session() as run:
            sql = "SELECT id FROM information_schema.processlist WHERE info LIKE %s AND id <> connection_id()"
            rows = await run(sql, (f"%{containing}%",))
            for (process,) in rows:
                await run(f"KILL {int(process)}")
        return len(rows)
