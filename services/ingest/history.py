"""GET /v1/contents/{cid}/history: one list of three sources, newest first."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from heapq import merge
from itertools import islice
from typing import Any

import orjson
from aiohttp import web

from services.ingest.bodies import path_cid
from services.ingest.contents import json_response, unknown
from services.ingest.problems import ProblemError
from shared.catalog import Catalog
from shared.catalog.catalog import Drop, LevelChange, Relocation
from shared.errors import InvalidError
from shared.levels import COUNT_MAX

LIMIT_DEFAULT = 50
LIMIT_MAX = 500
_CURSOR_MAX_CHARACTERS = 200
_PARTS = 5
_NO_CURSOR = "before is not a cursor: take `next` of the page before"

HistoryRow = LevelChange | Relocation | Drop


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended in each source: each goes on from its own place, so that equal times lose nothing."""

    change_id: int = COUNT_MAX
    committed_at: int = COUNT_MAX
    move_id: str = ""
    dropped_at: int = COUNT_MAX
    drop_id: int = 0

    def encode(self) -> str:
        raw = orjson.dumps([self.change_id, self.committed_at, self.move_id, self.dropped_at, self.drop_id])
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises InvalidError for anything that `encode` would not write."""
        try:
            padded = text[:_CURSOR_MAX_CHARACTERS].encode("ascii") + b"=" * (-len(text) % 4)
            parts = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except ValueError:
            parts = None
        if not isinstance(parts, list) or len(parts) != _PARTS:
            raise InvalidError(_NO_CURSOR)
        change_id, committed_at, move_id, dropped_at, drop_id = parts
        for value in (change_id, committed_at, dropped_at, drop_id):
            if type(value) is not int or not 0 <= value <= COUNT_MAX:
                raise InvalidError(_NO_CURSOR)
        if not isinstance(move_id, str) or not move_id.isascii():
            raise InvalidError(_NO_CURSOR)
        return cls(*parts)


def page(
    changes: Sequence[LevelChange], relocations: Sequence[Relocation], drops: Sequence[Drop], cursor: Cursor, limit: int
) -> tuple[list[dict[str, Any]], Cursor | None]:
    """The newest `limit` of all, and where to go on, if there is more. Pure.

    All come newest first, `limit` + 1 of each where there are so many.
    """
    merged: Iterator[HistoryRow] = merge(changes, relocations, drops, key=_at, reverse=True)
    taken = list(islice(merged, limit))
    if len(changes) + len(relocations) + len(drops) <= limit:
        return [_item(row) for row in taken], None
    for row in taken:
        match row:
            case LevelChange():
                cursor = replace(cursor, change_id=row.id)
            case Relocation():
                cursor = replace(cursor, committed_at=row.committed_at, move_id=row.move_id)
            case Drop():
                cursor = replace(cursor, dropped_at=row.dropped_at, drop_id=row.id)
    return [_item(row) for row in taken], cursor


def _at(row: HistoryRow) -> int:
    match row:
        case LevelChange():
            return row.new_update_time
        case Relocation():
            return row.committed_at
        case Drop():
            return row.dropped_at


_KINDS: dict[type[HistoryRow], str] = {LevelChange: "level_change", Relocation: "relocation", Drop: "drop"}


def _item(row: HistoryRow) -> dict[str, Any]:
    return {"kind": _KINDS[type(row)], "at": _at(row), **asdict(row)}


class HistoryEndpoint:
    """What happened to a content; it can be asked after the content is forgotten, too."""

    def __init__(self, catalog: Catalog) -> None:
        """Reads through `catalog`."""
        self._catalog = catalog

    async def show(self, request: web.Request) -> web.Response:
        """200 with a page."""
        cid = path_cid(request)
        limit = read_limit(request.query.get("limit"))
        before = request.query.get("before")
        try:
            cursor = Cursor() if before is None else Cursor.decode(before)
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        changes = await self._catalog.level_changes(cid, limit + 1, cursor.change_id)
        relocations = await self._catalog.relocations(cid, limit + 1, (cursor.committed_at, cursor.move_id))
        drops = await self._catalog.drops(cid, limit + 1, (cursor.dropped_at, cursor.drop_id))
        items, following = page(changes, relocations, drops, cursor, limit)
        if not items and before is None and not await self._catalog.rows([cid]):
            raise unknown(cid)
        return json_response({"items": items, "next": following.encode() if following else None})


def read_limit(text: str | None) -> int:
    """How many rows a page has. Raises ProblemError."""
    if text is None:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX)) and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise ProblemError(400, f"limit must be an integer from 1 to {LIMIT_MAX}, got {text[:40]!r}")
