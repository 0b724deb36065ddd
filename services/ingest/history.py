"""GET /v1/contents/{cid}/history: one list of two sources, newest first."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import merge
from itertools import islice
from typing import Any

import orjson
from aiohttp import web

from services.ingest.bodies import path_cid
from services.ingest.contents import json_response, unknown
from services.ingest.problems import ProblemError
from shared.catalog import Catalog
from shared.catalog.catalog import LevelChange, Relocation
from shared.errors import InvalidError
from shared.levels import COUNT_MAX

LIMIT_DEFAULT = 50
LIMIT_MAX = 500
_CURSOR_MAX_CHARACTERS = 200
_NO_CURSOR = "before is not a cursor: take `next` of the page before"


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended in either source: each goes on from its own place, so that equal times lose nothing."""

    change_id: int = COUNT_MAX
    committed_at: int = COUNT_MAX
    move_id: str = ""

    def encode(self) -> str:
        raw = orjson.dumps([self.change_id, self.committed_at, self.move_id])
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises InvalidError for anything that `encode` would not write."""
        try:
            padded = text[:_CURSOR_MAX_CHARACTERS].encode("ascii") + b"=" * (-len(text) % 4)
            change_id, committed_at, move_id = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (ValueError, TypeError):
            change_id = committed_at = move_id = None
        for value in (change_id, committed_at):
            if type(value) is not int or not 0 <= value <= COUNT_MAX:
                raise InvalidError(_NO_CURSOR)
        if not isinstance(move_id, str) or not move_id.isascii():
            raise InvalidError(_NO_CURSOR)
        return cls(change_id, committed_at, move_id)


def page(
    changes: Sequence[LevelChange], relocations: Sequence[Relocation], cursor: Cursor, limit: int
) -> tuple[list[dict[str, Any]], Cursor | None]:
    """The newest `limit` of both, and where to go on, if there is more. Pure.

    Both come newest first, `limit` + 1 of each where there are so many.
    """
    both: Iterator[LevelChange | Relocation] = merge(changes, relocations, key=_at, reverse=True)
    taken = list(islice(both, limit))
    if len(changes) + len(relocations) <= limit:
        return [_item(row) for row in taken], None
    change_id, committed_at, move_id = cursor.change_id, cursor.committed_at, cursor.move_id
    for row in taken:
        if isinstance(row, LevelChange):
            change_id = row.id
        else:
            committed_at, move_id = row.committed_at, row.move_id
    return [_item(row) for row in taken], Cursor(change_id, committed_at, move_id)


def _at(row: LevelChange | Relocation) -> int:
    return row.new_update_time if isinstance(row, LevelChange) else row.committed_at


def _item(row: LevelChange | Relocation) -> dict[str, Any]:
    kind = "level_change" if isinstance(row, LevelChange) else "relocation"
    return {"kind": kind, "at": _at(row), **asdict(row)}


class HistoryEndpoint:
    """What happened to a content; it can be asked after the content is forgotten, too."""

    def __init__(self, catalog: Catalog) -> None:
        """Reads through `catalog`."""
        self._catalog = catalog

    async def show(self, request: web.Request) -> web.Response:
        """200 with a page."""
        cid = path_cid(request)
        limit = _limit(request.query.get("limit"))
        before = request.query.get("before")
        try:
            cursor = Cursor() if before is None else Cursor.decode(before)
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        changes = await self._catalog.level_changes(cid, limit + 1, cursor.change_id)
        relocations = await self._catalog.relocations(cid, limit + 1, (cursor.committed_at, cursor.move_id))
        items, following = page(changes, relocations, cursor, limit)
        if not items and before is None and not await self._catalog.rows([cid]):
            raise unknown(cid)
        return json_response({"items": items, "next": following.encode() if following else None})


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX)) and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise ProblemError(400, f"limit must be an integer from 1 to {LIMIT_MAX}, got {text[:40]!r}")
