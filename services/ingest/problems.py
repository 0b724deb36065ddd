"""Every error as RFC 9457 problem details."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from redis.exceptions import RedisError

from services.ingest.answers import SERVER, Accepted
from services.ingest.draining import Draining
from shared.catalog import CatalogDownError
from shared.errors import RetryError
from shared.log import Log
from shared.redis_client import is_down

CONTENT_TYPE = "application/problem+json"
_RETRY_AFTER_S = 2

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProblemError(Exception):
    """A request that cannot be answered as it was meant; `detail` names the cause and the remedy."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """`more` are extension members of the problem."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = dict(more or {})


class UnavailableError(ProblemError):
    """503: nothing was done, or nobody can say; repeat after `retry_after_s`."""

    def __init__(self, detail: str, *, retry_after_s: int = _RETRY_AFTER_S) -> None:
        """`retry_after_s` goes into the Retry-After header."""
        super().__init__(503, detail, headers={"Retry-After": str(retry_after_s)})


def answers_problems(log: Log, draining: Draining) -> Any:
    """The outermost middleware: signs answers, and turns errors into problems; only unexpected ones are logged.

    It tells `draining` of each request, too: a middleware more would cost a call more.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        with draining:
            try:
                response = await handler(request)
            except Exception as error:  # noqa: BLE001  # the unexpected ones are logged
                response = _response(_problem(error, request, log))
        if draining.begun:
            response.force_close()
        if not isinstance(response, Accepted):
            # Without the versions that aiohttp would tell. Here, since a signal costs a call more per request.
            response.headers[hdrs.SERVER] = SERVER
        return response

    return middleware


def _problem(error: Exception, request: web.Request, log: Log) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, web.HTTPException):
        return _of_http(error, request)
    outage = _of_outage(error)
    if outage is not None:
        return outage
    log.error("request failed", method=request.method, route=_route(request), exc_info=error)
    return ProblemError(500, "something went wrong here; the log says what")


def server_logger() -> logging.Logger:
    """For aiohttp's server: without the tracebacks that any client could fill the log with, by sending broken HTTP."""
    logger = logging.getLogger("reshelve.ingest.http")
    logger.filters = [_is_ours]
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


def _response(problem: ProblemError) -> web.Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.more,
    }
    return web.Response(
        status=problem.status, body=orjson.dumps(body), content_type=CONTENT_TYPE, headers=problem.headers
    )


def _of_http(error: web.HTTPException, request: web.Request) -> ProblemError:
    """What aiohttp itself refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ProblemError(405, f"{error.method} is not allowed here: use {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return ProblemError(413, f"body is larger than {request.client_max_size} bytes: split it")
    if error.status == HTTPStatus.NOT_FOUND:
        return ProblemError(404, "there is nothing at this path: see /openapi.json")
    return ProblemError(error.status, error.reason)


def _of_outage(error: Exception) -> ProblemError | None:
    if isinstance(error, CatalogDownError):
        return UnavailableError("MySQL does not answer: repeat later")
    if isinstance(error, RetryError):
        return UnavailableError("MySQL is busy: repeat later", retry_after_s=1)
    if isinstance(error, RedisError) and is_down(error):
        return UnavailableError("Redis does not answer: repeat later")
    return None


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""
