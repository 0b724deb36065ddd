"""The dead letters that operators dropped: part of a content's history."""

from __future__ import annotations

from typing import Protocol

from shared.catalog import sql
from shared.catalog.connections import Connections

_TEXT_MAX, _MOVE_ID_MAX = 255, 64


class Dead(Protocol):
    """What the history keeps of a letter."""

    @property
    def id(self) -> str: ...
    @property
    def cid(self) -> str: ...
    @property
    def move_id(self) -> str: ...
    @property
    def stream(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Drops:
    """Raises CatalogDownError where MySQL cannot answer."""

    def __init__(self, connections: Connections) -> None:
        """Writes through `connections`."""
        self._connections = connections

    async def record(self, letter: Dead, why: str, now_ms: int) -> None:
        """Write down why a letter is dropped, once: repeated, the last `why` stands."""
        # An entry that could not be decoded may call anything its move_id.
        move_id = letter.move_id if letter.move_id.isascii() else ""
        values = (letter.id, letter.cid, move_id[:_MOVE_ID_MAX], letter.stream, letter.reason[:_TEXT_MAX])
        async with self._connections.cursor() as cursor:
            await cursor.execute(sql.DROP, (*values, why, now_ms, why, now_ms))
