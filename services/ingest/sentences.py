"""The original form API: `POST /post_sentence` and `POST /update_sentence`."""

from __future__ import annotations

import re

from aiohttp import web

from services.ingest.bodies import read_form
from services.ingest.coalesce import Publisher
from services.ingest.contents import json_response, level_of, status_of, unknown
from services.ingest.levels import sound_levels
from services.ingest.payloads import Intake, check_integer, fold_item
from services.ingest.problems import ProblemError
from services.ingest.views import count
from shared.catalog import Catalog, Row
from shared.errors import InvalidError
from shared.levels import COUNT_MAX
from shared.names import check_cid
from shared.state.contents import Contents, ContentState

NOT_PLACED = "check your status again"
_DIGITS = re.compile(r"[0-9]{1,16}\Z")
_BEFORE_PLACED = frozenset({"update", "moving", "failed"})
_PLACED = frozenset({"done", "retiring"})


class SentencesEndpoint:
    """A total comes in and the planned level goes out; later the caller asks whether the file is there."""

    def __init__(self, catalog: Catalog, contents: Contents, publisher: Publisher, *, partitions: int) -> None:
        """Reads from `catalog` and `contents`; totals go out like any other views."""
        self._catalog = catalog
        self._contents = contents
        self._publisher = publisher
        self._partitions = partitions

    async def post(self, request: web.Request) -> web.Response:
        """200 with the content's level and the one that the count asks for."""
        cid, total = await read_form(request, "cid", "count")
        try:
            check_cid(cid)
            number = check_integer("count", int(total) if _DIGITS.match(total) else total, 0, COUNT_MAX)
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        row, state = await self._look(cid)
        levels = await sound_levels(self._catalog)
        target = levels.level_for(number)
        intake = Intake()
        fold_item({"cid": cid, "count": number}, self._partitions, intake)
        await self._publisher.publish(intake, len(cid) + len(total))
        count(intake)
        return json_response(
            {
                "cid": cid,
                "count": str(number),
                "target": target.content_level,
                "db_level": row.level,
                "filename": row.filename,
                "worker_id": state.worker_id or None,
                "status": "update" if target != level_of(row, levels) else status_of(state),
            }
        )

    async def update(self, request: web.Request) -> web.Response:
        """200 with the cid itself where its last move is placed."""
        [cid] = await read_form(request, "cid")
        try:
            check_cid(cid)
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        row, state = await self._look(cid)
        return web.Response(text=cid if is_placed(state, row) else NOT_PLACED)

    async def _look(self, cid: str) -> tuple[Row, ContentState]:
        row = (await self._catalog.rows([cid])).get(cid)
        if row is None:
            raise unknown(cid)
        [state] = await self._contents.read([cid])
        return row, state


def is_placed(state: ContentState, row: Row) -> bool:
    """Whether the content's last move is placed: done or recorded. False where it never moved. Pure."""
    if state.status in _BEFORE_PLACED:
        return False
    return state.status in _PLACED or row.last_count is not None
