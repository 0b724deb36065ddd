"""`reshelve status`: where everything stands, gathered from Redis and MySQL."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from redis.exceptions import ResponseError
from rich.console import Console
from rich.live import Live

from cli.session import Session, opened
from cli.status_view import render
from cli.terminal import console
from shared.keys import GROUPS, WORK_STREAMS, StreamName
from shared.patience import pause
from shared.state.breakers import OpenBreaker, OpenBreakers

_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class LevelStatus:
    """`free_bytes` and `total_bytes` are None where the path cannot be seen from here."""

    content_level: str
    min_counts: int
    max_counts: int
    path: str
    contents: int
    free_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """`backlog` entries, of which `pending` are in the hands of consumers."""

    stream: str
    backlog: int
    pending: int
    oldest_s: float | None


@dataclass(slots=True)
class ConsumerStatus:
    """`idle_ms` since it last asked for work."""

    group: str
    consumer: str
    pending: int = 0
    idle_ms: int | None = None
    streams: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Status:
    """`reviews`: contents up for review; `later`: entries that wait to be tried again.

    `breakers`: levels that keep failing, whose moves wait, by mover.
    """

    partitions: int
    levels: list[LevelStatus]
    streams: list[StreamStatus]
    reviews: int
    later: int
    dead_letters: int
    consumers: list[ConsumerStatus]
    breakers: list[OpenBreaker] = field(default_factory=list)


async def gather(session: Session) -> Status:
    """One look; its parts are moments apart."""
    now_s = time.time()
    waiting = await session.contents.waiting()
    return Status(
        partitions=len(session.scripts.partitions),
        levels=await _levels(session),
        streams=[await _stream(session, name, now_s) for name in WORK_STREAMS],
        reviews=waiting["review"],
        later=waiting["later"],
        dead_letters=waiting["dead"],
        consumers=await _consumers(session),
        breakers=await OpenBreakers(session.redis).read(),
    )


async def show_status(data_dir: Path, *, as_json: bool) -> int:
    """Print one look."""
    async with opened(data_dir) as session:
        found = await gather(session)
    if as_json:
        print(_line(found))
    else:
        console().print(render(found))
    return 0


async def watch_status(data_dir: Path, stop: asyncio.Event, *, as_json: bool) -> int:
    """Print a look every second until stopped; with `as_json` one line each."""
    out = console()
    async with opened(data_dir) as session:
        if as_json or not out.is_terminal:
            while not stop.is_set():
                found = await gather(session)
                print(_line(found), flush=True) if as_json else out.print(render(found))
                await pause(stop, _WATCH_S)
            return 0
        return await _watch_live(session, out, stop)


async def _watch_live(session: Session, out: Console, stop: asyncio.Event) -> int:
    with Live(render(await gather(session)), console=out, auto_refresh=False, screen=True) as live:
        while not stop.is_set():
            await pause(stop, _WATCH_S)
            live.update(render(await gather(session)), refresh=True)
    return 0


def _line(found: Status) -> str:
    return orjson.dumps(asdict(found)).decode()


async def _levels(session: Session) -> list[LevelStatus]:
    levels = await session.catalog.levels()
    contents = await session.catalog.count_by_level()
    rows = []
    for level in levels:
        free, total = await asyncio.to_thread(_space, level.path)
        held = contents.get(level.content_level, 0)
        rows.append(
            LevelStatus(level.content_level, level.min_counts, level.max_counts, level.path, held, free, total),
        )
    return rows


def _space(path: str) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None, None
    return usage.free, usage.total


async def _stream(session: Session, name: StreamName, now_s: float) -> StreamStatus:
    backlog, pending, oldest_ms = await session.contents.watch(name)
    age_s = None if oldest_ms is None else round(max(0.0, now_s - oldest_ms / 1000), 3)
    return StreamStatus(name, backlog, pending, age_s)


async def _consumers(session: Session) -> list[ConsumerStatus]:
    """Every consumer of every group, summed over partitions and streams."""
    slots = [(name, keys.stream(name)) for name in WORK_STREAMS for keys in session.scripts.partitions]
    answers = await asyncio.gather(*(_consumers_of(session, stream, GROUPS[name]) for name, stream in slots))
    found: dict[tuple[str, str], ConsumerStatus] = {}
    on: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (name, _), rows in zip(slots, answers, strict=True):
        for row in rows:
            key = (GROUPS[name], row["name"].decode())
            consumer = found.setdefault(key, ConsumerStatus(*key))
            consumer.pending += row["pending"]
            consumer.idle_ms = row["idle"] if consumer.idle_ms is None else min(consumer.idle_ms, row["idle"])
            on[key].add(name)
    for key, consumer in found.items():
        consumer.streams = sorted(on[key])
    return [found[key] for key in sorted(found)]


async def _consumers_of(session: Session, stream: str, group: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = await session.redis.xinfo_consumers(stream, group)
    except ResponseError as error:
        # Nothing was ever written there, or nobody ever read.
        if "no such key" in str(error) or "NOGROUP" in str(error):
            return []
        raise
    return rows
