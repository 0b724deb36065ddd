"""Reading what came with a request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from services.ingest.payloads import UnsupportedError, check_utf8, load
from services.ingest.problems import ProblemError
from services.ingest.room import Room, Share
from shared.errors import InvalidError
from shared.names import check_cid

ROOM = web.AppKey("room", Room)

_BODY_TIMEOUT_S = 30
_FORM = "application/x-www-form-urlencoded"
_FORM_FIELDS_MAX = 100


async def read_body(request: web.Request, share: Share) -> bytes:
    """The whole body, which grows the share as it comes.

    Raises ProblemError for one that is damaged, trickles in too slowly, or for which there is no room just now.
    """
    content = request.content
    try:
        if content.is_eof():
            # All of it came with the headers, as small bodies do: no clock is needed.
            body = await content.readany()
            if len(body) > request.client_max_size:
                raise web.HTTPRequestEntityTooLarge(request.client_max_size)
            share.hold(len(body))
            return body
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await _read(request, share)
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {_BODY_TIMEOUT_S} s") from None
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
        # A bad Content-Encoding or chunk, or the client went away: where the next request begins is anybody's guess.
        raise ProblemError(400, "the body is damaged or incomplete", headers={"Connection": "close"}) from None


async def _read(request: web.Request, share: Share) -> bytes:
    """Not by `request.read()`: it lets aiohttp buffer twice the largest body per connection, which nobody counts."""
    pieces: list[bytes] = []
    size, largest = 0, request.client_max_size
    while piece := await request.content.readany():
        size += len(piece)
        if size > largest:
            raise web.HTTPRequestEntityTooLarge(largest)
        await share.grow(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_json(request: web.Request) -> Any:
    """The body as JSON. Raises ProblemError."""
    _expect(request, "application/json")
    try:
        with request.app[ROOM].share() as share:
            return load(await read_body(request, share))
    except InvalidError as error:
        raise ProblemError(400, str(error)) from None


async def read_form(request: web.Request, *names: str) -> list[str]:
    """The values of a form's fields `names`; others are ignored. Raises ProblemError unless each comes once."""
    _expect(request, _FORM)
    with request.app[ROOM].share() as share:
        body = await read_body(request, share)
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=bool(body), errors="strict",
            max_num_fields=_FORM_FIELDS_MAX,
        )  # fmt: skip
    except ValueError:
        raise ProblemError(400, "body is not a form: send cid=7&count=1964") from None
    return [_only(name, [value for field, value in pairs if field == name]) for name in names]


def _only(name: str, values: Sequence[str]) -> str:
    if len(values) != 1:
        raise ProblemError(400, f"{name} is {'given twice' if values else 'missing'}: send it once, as a form field")
    return values[0]


def path_cid(request: web.Request) -> str:
    """The cid in the path. Raises ProblemError."""
    try:
        return check_cid(request.match_info["cid"])
    except InvalidError as error:
        raise ProblemError(400, str(error)) from None


def _expect(request: web.Request, media_type: str) -> None:
    try:
        found = check_utf8(request.headers.get("Content-Type", ""))
    except UnsupportedError as error:
        raise ProblemError(415, str(error)) from None
    if found != media_type:
        raise ProblemError(415, f"Content-Type {found[:80]!r} is not understood: send {media_type}")
