"""The answer that nearly every request for views gets, written at one go."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

SERVER = "reshelve"


def accepted(request: web.Request, views: int) -> web.StreamResponse:
    """202, where all views were taken in."""
    if request.version == HttpVersion11 and request.keep_alive:
        return Accepted(views)
    return web.Response(status=202, body=_body(views), content_type="application/json")


class Accepted(web.StreamResponse):
    """202. Putting an answer's headers together one by one costs as much as its views."""

    def __init__(self, views: int) -> None:
        """So many were taken in."""
        super().__init__(status=202)
        self._views = views

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive is not False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Writes it all; there is nothing more to come."""
        writer = request.writer
        await writer.write(_whole(self._views, int(time.time()), keeps=self.keep_alive))
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be written."""


@lru_cache(maxsize=128)
def _whole(views: int, now_s: int, *, keeps: bool) -> bytes:
    body = _body(views)
    date = formatdate(now_s, usegmt=True)
    head = f"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nServer: {SERVER}\r\nDate: {date}\r\n"
    if not keeps:
        head += "Connection: close\r\n"
    return b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(body), body)


def _body(views: int) -> bytes:
    return orjson.dumps({"accepted": views, "rejected": []})
