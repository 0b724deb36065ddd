"""/healthz and /readyz, on the port that clients use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from services.ingest.contents import json_response
from services.ingest.problems import UnavailableError


class HealthEndpoint:
    """Liveness asks nothing; readiness has Redis and MySQL proven."""

    def __init__(self, missing: Callable[[], Awaitable[str]]) -> None:
        """`missing` names the servers that do not answer."""
        self._missing = missing

    async def healthz(self, _: web.Request) -> web.Response:
        """200 while the event loop turns."""
        return json_response({"status": "alive"})

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when requests can be answered."""
        missing = await self._missing()
        if missing:
            raise UnavailableError(f"not ready: {missing}")
        return json_response({"status": "ready"})
