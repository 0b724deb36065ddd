"""The demo's producer: registers contents and sends views over HTTP, as any producer would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import aiohttp
import orjson

from cli.samples import Sample
from cli.zipf import Report
from shared.errors import ReshelveError

_AT_ONCE = 16
_TRIES = 10
_BATCH = 250
_ERROR_CHARACTERS = 300


class RefusedError(ReshelveError):
    """Ingest's answer was not what the demo counts on."""


class Producer:
    """Speaks to one ingest."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        """`url` is the ingest's, without a path."""
        self._http = http
        self._url = url

    async def register(self, samples: Sequence[Sample]) -> None:
        """POST each to /v1/contents. Raises RefusedError."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(sample: Sample) -> None:
            async with turns:
                body = orjson.dumps({"cid": sample.cid, "filename": sample.filename})
                await self._post("/v1/contents", body, {"Content-Type": "application/json"}, HTTPStatus.CREATED)

        await asyncio.gather(*(one(sample) for sample in samples))

    async def send_views(self, reports: Sequence[Report], lasting_s: float) -> None:
        """POST the reports in batches, spread over about `lasting_s`. Raises RefusedError."""
        batches = [reports[start : start + _BATCH] for start in range(0, len(reports), _BATCH)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, batch in enumerate(batches):
            await asyncio.sleep(began + lasting_s * number / len(batches) - loop.time())
            await self._send({"cid": report.cid, "views": report.views} for report in batch)

    async def send_counts(self, counts: Mapping[str, int]) -> None:
        """POST absolute counts. Raises RefusedError."""
        items = list(counts.items())
        for start in range(0, len(items), _BATCH):
            await self._send({"cid": cid, "count": count} for cid, count in items[start : start + _BATCH])

    async def _send(self, items: Iterable[dict[str, Any]]) -> None:
        lines = [orjson.dumps(item) for item in items]
        # The key makes a repeated request harmless: the views are counted once.
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": str(uuid4())}
        answer = await self._post("/v1/views", b"\n".join(lines), headers, HTTPStatus.ACCEPTED)
        if answer.get("accepted") != len(lines):
            raise RefusedError(f"ingest took in {answer.get('accepted')} of {len(lines)} views: {answer}")

    async def _post(self, path: str, body: bytes, headers: dict[str, str], wanted: HTTPStatus) -> dict[str, Any]:
        """The answer's JSON; a request that ingest had no room for is repeated for a while."""
        for attempt in range(_TRIES):
            async with self._http.post(self._url + path, data=body, headers=headers) as answer:
                text = await answer.read()
                if answer.status == wanted:
                    value: dict[str, Any] = orjson.loads(text)
                    return value
                if answer.status != HTTPStatus.SERVICE_UNAVAILABLE or attempt == _TRIES - 1:
                    said = text.decode(errors="replace")[:_ERROR_CHARACTERS]
                    raise RefusedError(f"ingest answered {path} with {answer.status}: {said}")
                await asyncio.sleep(min(float(answer.headers.get("Retry-After", "1")), 2))
        raise AssertionError
