"""Views over HTTP, beside a handler that does nothing and a loop that only parses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ingest_load import Load, load
from benchmarks.limits import bare_aiohttp, parsed_per_s
from benchmarks.load import CATALOG, CONTENTS, view_requests
from benchmarks.measure import Beside, Bound, Row
from benchmarks.system import CORES, Servers, System, two_cores

_SECONDS = 4.0
_LEAST_S = 0.5
_SINGLE_AT_LEAST, _BATCH_AT_LEAST = 0.6, 0.5
UNLIMITED = {"RESHELVE_BACKLOG_LIMIT": "1000000000"}
_BODY = b"\r\n\r\n"


def rows(work: Path, scale: float) -> Iterator[Row]:
    """64 connections with one request in flight on each, from a process of its own.

    One ingest process for one view a POST, and where the row says so; else two that share the port, one for each core.
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
            ours=lambda: _ours(servers, 1, 1, seconds).requests_per_s,
            beside=Beside("bare aiohttp handler", lambda: _bare(seconds)),
            bounds=(Bound("ratio", ">=", _SINGLE_AT_LEAST),),
        )
        for views, least in ((100, 400_000), (1000, 1_000_000)):
            bounds = (Bound("ratio", ">=", _BATCH_AT_LEAST), Bound("ours", ">=", least))
            for contents in (CONTENTS, CATALOG):
                yield _Batch(views, contents, seconds).row("ingest", servers, CORES, bounds)
            yield _Batch(views, CATALOG, seconds).row("one ingest process", servers, 1, ())


@dataclass(frozen=True)
class _Batch:
    """So many views a POST, drawn from so many contents."""

    views: int
    contents: int
    seconds: float

    def row(self, who: str, servers: Servers, processes: int, bounds: Sequence[Bound]) -> Row:
        bodies = [request.partition(_BODY)[2] for request in view_requests(self.views, contents=self.contents)]
        return Row(
            name=f"{who}, NDJSON of {self.views}, of {self.contents:,} contents",
            unit="views/s",
            ours=lambda: _ours(servers, processes, self.views, self.seconds, self.contents).views_per_s,
            beside=Beside("orjson over the same lines", lambda: parsed_per_s(bodies, self.seconds)),
            bounds=bounds,
        )


def _bare(seconds: float) -> float:
    with bare_aiohttp() as port:
        return load(port, views=1, seconds=seconds).requests_per_s


def _ours(servers: Servers, processes: int, views: int, seconds: float, contents: int = CATALOG) -> Load:
    async def run() -> Load:
        async with _listening(servers, processes) as port:
            return await asyncio.to_thread(load, port, views=views, seconds=seconds, contents=contents)

    taken = asyncio.run(run())
    if set(taken.answers) != {"202"}:
        raise RuntimeError(f"ingest did not take everything: {dict(taken.answers)}")
    return taken


@asynccontextmanager
async def _listening(servers: Servers, processes: int) -> AsyncIterator[int]:
    """The port of ingest processes that refuse nothing for the backlog's sake."""
    settings = UNLIMITED | {"RESHELVE_HTTP_SHARE_PORT": str(int(processes > 1))}
    async with System.fresh(servers, no_files(servers), settings=settings) as system:
        await system.start(*["ingest"] * processes)
        yield system.port


def no_files(servers: Servers) -> list[Path]:
    """The levels' directories where no file is moved."""
    return [servers.work / "bronze", servers.work / "silver"]
