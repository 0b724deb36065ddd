"""Views over HTTP, beside a handler that does nothing and a loop that only parses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.ingest_load import Load, load
from benchmarks.limits import bare_aiohttp, parsed_per_s
from benchmarks.load import CATALOG, CONTENTS, view_requests
from benchmarks.measure import Beside, Bound, Row
from benchmarks.system import Servers, System, two_cores

_SECONDS = 4.0
_LEAST_S = 0.5
_SINGLE_AT_LEAST, _BATCH_AT_LEAST = 0.6, 0.5
UNLIMITED = {"RESHELVE_BACKLOG_LIMIT": "1000000000"}
_BODY = b"\r\n\r\n"


def rows(work: Path, scale: float) -> Iterator[Row]:
    """One ingest process, 64 connections with one request in flight on each, from a process of its own.

    Ours includes all that a 202 promises: the views checked, summed, and in Redis with its AOF synced. Both cores are
    shared with Redis and the load generator, whose cost lowers ours and the bare handler's alike; the loop over orjson
    has a core for itself, without HTTP, and reads the same lines. The views are drawn from so many contents, the k-th
    most popular 1/k as often as the first: a million views over and over, of a million contents some 230,000. Not
    included: TLS, tokens.
    """
    seconds = max(_LEAST_S, _SECONDS * scale)
    with two_cores(), Servers.started(work) as servers:
        yield Row(
            name="ingest, one view per POST",
            unit="requests/s",
            ours=lambda: _ours(servers, 1, seconds).requests_per_s,
            beside=Beside("bare aiohttp handler", lambda: _bare(seconds)),
            bounds=(Bound("ratio", ">=", _SINGLE_AT_LEAST),),
        )
        for views, least in ((100, 400_000), (1000, 1_000_000)):
            for contents in (CONTENTS, CATALOG):
                yield _batch(servers, views, contents, least, seconds)


def _batch(servers: Servers, views: int, contents: int, least: int, seconds: float) -> Row:
    bodies = [request.partition(_BODY)[2] for request in view_requests(views, contents=contents)]
    return Row(
        name=f"ingest, NDJSON of {views}, of {contents:,} contents",
        unit="views/s",
        ours=lambda: _ours(servers, views, seconds, contents).views_per_s,
        beside=Beside("orjson over the same lines", lambda: parsed_per_s(bodies, seconds)),
        bounds=(Bound("ratio", ">=", _BATCH_AT_LEAST), Bound("ours", ">=", least)),
    )


def _bare(seconds: float) -> float:
    with bare_aiohttp() as port:
        return load(port, views=1, seconds=seconds).requests_per_s


def _ours(servers: Servers, views: int, seconds: float, contents: int = CATALOG) -> Load:
    async def run() -> Load:
        async with _listening(servers) as port:
            return await asyncio.to_thread(load, port, views=views, seconds=seconds, contents=contents)

    taken = asyncio.run(run())
    if set(taken.answers) != {"202"}:
        raise RuntimeError(f"ingest did not take everything: {dict(taken.answers)}")
    return taken


@asynccontextmanager
async def _listening(servers: Servers) -> AsyncIterator[int]:
    """The port of an ingest that refuses nothing for the backlog's sake."""
    async with System.fresh(servers, no_files(servers), settings=UNLIMITED) as system:
        await system.start("ingest")
        yield urlsplit(system.http).port or 0


def no_files(servers: Servers) -> list[Path]:
    """The levels' directories where no file is moved."""
    return [servers.work / "bronze", servers.work / "silver"]
