"""POST /v1/views."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from http import HTTPStatus

import orjson
from aiohttp import hdrs, web

from services.ingest import events, payloads
from services.ingest.alike import lines_alike, one_view
from services.ingest.answers import accepted
from services.ingest.bodies import read_body
from services.ingest.coalesce import Publisher
from services.ingest.gate import Gate
from services.ingest.idempotency import HEADER, Idempotency, check_key
from services.ingest.payloads import Intake, TooManyError, UnsupportedError
from services.ingest.problems import ProblemError
from services.ingest.room import Room
from shared import metrics
from shared.errors import InvalidError

_LARGE_BYTES = 64 * 1024
"""A body from this size on is parsed off the event loop: smaller ones take a few milliseconds at most."""
_REASONS = {
    HTTPStatus.BAD_REQUEST: "malformed",
    HTTPStatus.REQUEST_TIMEOUT: "malformed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported",
    HTTPStatus.UNPROCESSABLE_ENTITY: "key_reused",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
_QUICKLY = {"json": one_view, "ndjson": lines_alike}
_PARSERS = {
    "json": payloads.parse_json,
    "ndjson": payloads.parse_ndjson,
    "cloudevent": events.parse_event,
    "cloudevents": events.parse_events,
}

# Looking a series up by its labels costs as much as counting.
_ACCEPTED_VIEWS = metrics.VIEWS_ACCEPTED.labels("views")
_ACCEPTED_COUNTS = metrics.VIEWS_ACCEPTED.labels("count")


def initialise_metrics() -> None:
    """Every series exists from the start; those of accepted views do since this module was loaded."""
    for reason in ("invalid", *_REASONS.values()):
        metrics.VIEWS_REJECTED.labels(reason)
    metrics.LAST_SUCCESS.labels("gate")


class NoneAcceptedError(ProblemError):
    """400: the body holds views, and not one is sound."""

    def __init__(self, intake: Intake) -> None:
        """The problem lists the rejections as the 202 does."""
        super().__init__(400, f"no view could be accepted: {intake.rejected[0]['error']}", more=_rejections(intake))
        self.total = intake.rejected_total


class ViewsEndpoint:
    """Takes views in."""

    def __init__(
        self,
        publisher: Publisher,
        gate: Gate,
        idempotency: Idempotency,
        room: Room,
        *,
        pool: Executor,
        partitions: int,
    ) -> None:
        """`pool` parses large bodies."""
        self._publisher = publisher
        self._gate = gate
        self._idempotency = idempotency
        self._room = room
        self._pool = pool
        self._partitions = partitions

    async def post(self, request: web.Request) -> web.StreamResponse:
        """202 once Redis has acknowledged."""
        started = time.perf_counter()
        try:
            intake = await self._take_in(request)
        except (ProblemError, web.HTTPException) as error:
            _count_refusal(error)
            raise
        finally:
            metrics.INGEST_SECONDS.observe(time.perf_counter() - started)
        count(intake)
        if not intake.rejected_total:
            return accepted(request, intake.accepted)
        return web.Response(status=202, body=_answer(intake), content_type="application/json")

    async def _take_in(self, request: web.Request) -> Intake:
        # Refused before the body is read: under overload, work that leads nowhere makes it worse.
        self._gate.check()
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        keys = request.headers.getall(HEADER, ())
        if len(keys) > 1:
            raise ProblemError(400, f"{HEADER} is given {len(keys)} times: send one")
        for key in keys:
            check_key(key)
        with self._room.share() as share:
            body = await read_body(request, share)
            intake = await self._parse(request, content_type, body)
            if intake.rejected_total and not intake.accepted:
                raise NoneAcceptedError(intake)
            marker = await self._idempotency.marker(keys[0], content_type, body) if keys else ""
            answer = self._publisher.submit(intake, len(body), marker)
            # What waits from here on is counted by the publisher.
            del body
        refusal = await answer
        if refusal is not None:
            raise refusal
        return intake

    async def _parse(self, request: web.Request, content_type: str, body: bytes) -> Intake:
        try:
            kind = payloads.format_of(content_type)
            if kind == "json" and events.is_binary(request.headers):
                return events.parse_binary(request.headers, body, self._partitions)
            if len(body) < _LARGE_BYTES:
                return self._parsed(kind, body)
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._parsed, kind, body)
        except UnsupportedError as error:
            raise ProblemError(415, str(error)) from None
        except TooManyError as error:
            raise ProblemError(413, str(error)) from None
        except InvalidError as error:
            raise ProblemError(400, str(error)) from None

    def _parsed(self, kind: payloads.Format, body: bytes) -> Intake:
        read = _QUICKLY.get(kind)
        increments = read(body) if read else None
        if increments:
            return Intake(len(increments.cids), increments=increments)
        return _PARSERS[kind](body, self._partitions)


def count(intake: Intake) -> None:
    """Into the metrics, once the answer is certain."""
    if intake.accepted_views:
        _ACCEPTED_VIEWS.inc(intake.accepted_views)
    if intake.accepted_counts:
        _ACCEPTED_COUNTS.inc(intake.accepted_counts)
    if intake.rejected_total:
        metrics.VIEWS_REJECTED.labels("invalid").inc(intake.rejected_total)


def _count_refusal(error: ProblemError | web.HTTPException) -> None:
    if isinstance(error, NoneAcceptedError):
        metrics.VIEWS_REJECTED.labels("invalid").inc(error.total)
    elif HTTPStatus(error.status) in _REASONS:
        metrics.VIEWS_REJECTED.labels(_REASONS[HTTPStatus(error.status)]).inc()


def _rejections(intake: Intake) -> dict[str, object]:
    """`rejected_total` stands only where not all are listed."""
    listed: dict[str, object] = {"rejected": intake.rejected}
    if intake.rejected_total > len(intake.rejected):
        listed["rejected_total"] = intake.rejected_total
    return listed


def _answer(intake: Intake) -> bytes:
    return orjson.dumps({"accepted": intake.accepted, **_rejections(intake)})
