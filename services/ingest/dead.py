"""/v1/dead: the dead letters, and what an operator does about them."""

from __future__ import annotations

import time
from dataclasses import asdict

from aiohttp import web

from services.ingest.contents import json_response
from services.ingest.history import read_limit
from services.ingest.problems import ProblemError
from shared.drop import Dropping, check_why
from shared.errors import InvalidError
from shared.log import Log
from shared.state.dead_letters import DeadLetterQueue, Filter, GoneError, LetterId, RefusedError


class DeadLettersEndpoint:
    """Lists, shows, puts back and drops dead letters."""

    def __init__(self, letters: DeadLetterQueue, dropping: Dropping, log: Log) -> None:
        """All is done through `letters` and `dropping`."""
        self._letters = letters
        self._dropping = dropping
        self._log = log

    async def list(self, request: web.Request) -> web.Response:
        """200 with a page."""
        query = request.query
        limit = read_limit(query.get("limit"))
        after = _parsed(query["after"]) if "after" in query else None
        try:
            wanted = Filter.parse(query.get("stream"), query.get("reason"), query.get("cid"))
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        found = await self._letters.list(wanted, limit + 1, after)
        items = found[:limit]
        following = items[-1].id if len(found) > limit else None
        return json_response({"items": [asdict(letter) for letter in items], "next": following})

    async def show(self, request: web.Request) -> web.Response:
        """200 with what the letter holds."""
        try:
            letter, fields = await self._letters.show(_id(request))
        except GoneError as error:
            raise ProblemError(404, str(error)) from None
        return json_response({**asdict(letter), "fields": fields})

    async def retry(self, request: web.Request) -> web.Response:
        """200 with the entry's new id on its stream."""
        id_ = _id(request)
        try:
            entry_id = await self._letters.retry(id_)
        except GoneError as error:
            raise ProblemError(404, str(error)) from None
        except RefusedError as error:
            raise ProblemError(409, str(error)) from None
        self._log.info("retried", letter=str(id_), entry_id=entry_id)
        return json_response({"id": str(id_), "entry_id": entry_id})

    async def drop(self, request: web.Request) -> web.Response:
        """204; the history of its content says why."""
        id_ = _id(request)
        try:
            why = check_why(request.query.get("why", ""))
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None
        try:
            letter, outcome = await self._dropping.drop(id_, why, time.time_ns() // 1_000_000)
        except GoneError as error:
            raise ProblemError(404, str(error)) from None
        self._log.info(
            "dropped", letter=letter.id, stream=letter.stream, reason=letter.reason, detail=letter.detail,
            cid=letter.cid, move_id=letter.move_id, why=why, outcome=outcome,
        )  # fmt: skip
        return web.Response(status=204)


def _id(request: web.Request) -> LetterId:
    return _parsed(request.match_info["id"])


def _parsed(text: str) -> LetterId:
    try:
        return LetterId.parse(text)
    except InvalidError as error:
        raise ProblemError(400, str(error)) from None
