"""From a view to the commit that it causes, through all four services."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from benchmarks.staging import cids, make_files, now_ms, register, sync_filesystem
from benchmarks.system import HOST, Query, Servers, System
from shared.state.contents import Contents

_SERVICES = ("ingest", "planner", "mover", "mover", "recorder")
_BELOW = 999
"""One view short of silver."""
_AT_ONCE = 500
_LOOK_S = 0.001
_WAIT_S = 30.0
_SIZE = 4096


@dataclass(frozen=True)
class Seen:
    """ms since the epoch: the POST, its answer, the stages' own times, and when another connection saw the commit."""

    posted: int
    answered: int
    planned: int
    placed: int
    committing: int
    committed: int

    @property
    def ms(self) -> int:
        return self.committed - self.posted

    @property
    def stages(self) -> dict[str, int]:
        """The way from stage to stage; the answer to the producer lies beside it."""
        return {
            "until the answer": self.answered - self.posted,
            "until planned": self.planned - self.posted,
            "planned to placed": self.placed - self.planned,
            "placed to transaction": self.committing - self.placed,
            "transaction": self.committed - self.committing,
        }


class Watch:
    """Sees each commit within a millisecond or two, by new rows of `update_history`."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self.committed: dict[str, int] = {}

    async def run(self, pause_s: float) -> None:
        """Until cancelled. MySQL reads at REPEATABLE READ, but each of these statements is a transaction of its own."""
        last = 0
        # A transaction that is committed later may have lower ids: two of them are under way at a time.
        missing: set[int] = set()
        while True:
            sql = "SELECT id, cid FROM update_history WHERE id > %s OR id IN %s"
            rows = await self._query(sql, (last, tuple(missing) or (0,)))
            now = now_ms()
            self.committed.update((cid, now) for _, cid in rows)
            found = {number for number, _ in rows}
            newest = max(found, default=last)
            missing = missing.union(range(last + 1, newest + 1)) - found
            last = max(last, newest)
            await asyncio.sleep(pause_s)


class Latency:
    """A running system whose contents are each one view short of silver."""

    def __init__(self, system: System, session: aiohttp.ClientSession, watch: Watch, names: Sequence[str]) -> None:
        self._system = system
        self._session = session
        self._watch = watch
        self._unused = list(names)
        self._posted: dict[str, tuple[int, int]] = {}

    @classmethod
    @asynccontextmanager
    async def running(cls, servers: Servers, contents: int, *, look_s: float = _LOOK_S) -> AsyncIterator[Latency]:
        """All files on one filesystem, in a directory of their own."""
        directory = Path(tempfile.mkdtemp(dir=servers.work))
        paths = [directory / name for name in ("bronze", "silver", "gold")]
        async with (
            System.fresh(servers, paths) as system,
            aiohttp.ClientSession() as session,
            # Of its own: a connection answers one question at a time.
            system.connected() as query,
        ):
            names = cids(contents)
            make_files(paths[0], names, _SIZE)
            for path in paths[1:]:
                path.mkdir()
            await register(system, names)
            await system.start(*_SERVICES)
            watch = Watch(query)
            self = cls(system, session, watch, names)
            for start in range(0, contents, _AT_ONCE):
                await self._post([{"cid": cid, "count": _BELOW} for cid in names[start : start + _AT_ONCE]])
            await self._at_rest()
            sync_filesystem(servers.work)
            watching = asyncio.create_task(watch.run(look_s))
            try:
                yield self
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching

    async def one_at_a_time(self, views: int) -> list[Seen]:
        """Each after the one before is settled and a pause of no particular length: pollers are met at any phase."""
        taken = self._take(views)
        for cid in taken:
            await self._at_rest()
            await asyncio.sleep(random.uniform(0.02, 0.12))
            await self._view([cid])
            await self._committed([cid])
        return await self._seen(taken)

    async def at_once(self, views: int) -> float:
        """Commits/s of a burst: the most that the system can do, ingest and reviews included."""
        taken = self._take(views)
        began = now_ms()
        for start in range(0, views, _AT_ONCE):
            await self._view(taken[start : start + _AT_ONCE])
        await self._committed(taken)
        await self._at_rest()
        return views * 1000 / (max(self._watch.committed[cid] for cid in taken) - began)

    async def steadily(self, per_s: float, views: int, tick_s: float = 0.02) -> list[Seen]:
        """So many views a second, whether or not the ones before are through; each tick's in one POST."""
        taken, sent = self._take(views), 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as posts:
            while sent < views:
                due = min(views, int((loop.time() - began) * per_s) + 1)
                if due > sent:
                    posts.create_task(self._view(taken[sent:due]))
                    sent = due
                await asyncio.sleep(tick_s)
        await self._committed(taken)
        return await self._seen(taken)

    def _take(self, views: int) -> list[str]:
        taken, self._unused = self._unused[:views], self._unused[views:]
        assert len(taken) == views
        return taken

    async def _view(self, names: Sequence[str]) -> None:
        posted = now_ms()
        await self._post([{"cid": cid} for cid in names])
        answered = now_ms()
        self._posted.update(dict.fromkeys(names, (posted, answered)))

    async def _post(self, views: Sequence[dict[str, object]]) -> None:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(
            f"http://{HOST}:{self._system.port}/v1/views", data=orjson.dumps(views), headers=headers
        ) as answer:
            if answer.status != 202:
                raise RuntimeError(f"ingest answered {answer.status}: {(await answer.text())[:300]}")

    async def _committed(self, names: Sequence[str]) -> None:
        """Raises TimeoutError where one of them is not committed within half a minute."""
        async with asyncio.timeout(_WAIT_S):
            for cid in names:
                while cid not in self._watch.committed:
                    await asyncio.sleep(_LOOK_S)

    async def _at_rest(self) -> None:
        """Nothing is on a stream or up for review."""
        contents = Contents(self._system.scripts)
        async with asyncio.timeout(4 * _WAIT_S):
            while any((await contents.backlog()).values()) or any((await contents.waiting()).values()):
                await asyncio.sleep(0.01)

    async def _seen(self, names: Sequence[str]) -> list[Seen]:
        rows = await self._system.query("SELECT cid, planned_at, placed_at, committed_at FROM relocations")
        stages = {cid: (planned, placed, committing) for cid, planned, placed, committing in rows}
        return [Seen(*self._posted[cid], *stages[cid], self._watch.committed[cid]) for cid in names]


def percentile(figures: Sequence[float], percent: float) -> float:
    """The least of the figures that so many percent of them do not exceed."""
    return sorted(figures)[math.ceil(len(figures) * percent / 100) - 1]


def stage_figures(seen: Sequence[Seen]) -> dict[str, float]:
    """Median and 99th percentile of each stage, ms."""
    figures: dict[str, float] = {}
    for stage in seen[0].stages:
        took = [float(each.stages[stage]) for each in seen]
        figures[f"{stage}, p50"] = statistics.median(took)
        figures[f"{stage}, p99"] = percentile(took, 99)
    return figures
