"""What the demo shows while it runs: a live table on a terminal, a line a second elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from cli.replicas import Replica
from cli.session import Session
from cli.terminal import amount
from cli.verify import files_on
from shared.errors import ReshelveError
from shared.keys import StreamName
from shared.levels import Levels

_LOOK_S = 0.2
_LINE_S = 1.0
_QUIET_LOOKS = 3
"""A look is not one instant: an entry may hop from a stream not yet looked at to one looked at already. And the first
one may have begun before the views came in."""


class UnsettledError(ReshelveError):
    """Contents did not come to rest in time."""


@dataclass(frozen=True, slots=True)
class Look:
    """How things stand."""

    contents: Mapping[str, int]
    files: Mapping[str, int]
    backlog: Mapping[StreamName, int]
    reviews: int
    later: int
    dead_letters: int
    relocations: int

    @property
    def is_settled(self) -> bool:
        return not any(self.backlog.values()) and not self.reviews and not self.later


class Scene:
    """Looks at the system again and again; `act` says what is going on."""

    def __init__(self, session: Session, levels: Levels, recorder: Replica, out: Console) -> None:
        """The number of relocations is the recorder's own metric."""
        self.act = ""
        self._session = session
        self._levels = levels
        self._recorder = recorder
        self._out = out
        self._began = time.monotonic()
        self._looks = asyncio.Condition()
        self._look: Look | None = None

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Shown while the block runs."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            await self._take(http)
            show = self._show_live if self._out.is_terminal else self._show_lines
            tasks = [asyncio.create_task(self._keep_looking(http)), asyncio.create_task(show())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def settled(self, within_s: float) -> None:
        """Return when nothing is left to do. Raises UnsettledError."""
        quiet = 0
        try:
            async with asyncio.timeout(within_s):
                while quiet < _QUIET_LOOKS:
                    async with self._looks:
                        await self._looks.wait()
                    quiet = quiet + 1 if self._look is not None and self._look.is_settled else 0
        except TimeoutError:
            raise UnsettledError(f"not settled after {within_s:.0f} s: {self._line()}") from None

    async def _keep_looking(self, http: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._take(http)

    async def _take(self, http: aiohttp.ClientSession) -> None:
        contents = self._session.contents
        waiting = await contents.waiting()
        on_disk = await asyncio.to_thread(files_on, self._levels)
        look = Look(
            contents=await self._session.catalog.count_by_level(),
            files=Counter(level for places in on_disk.values() for level in places),
            backlog=await contents.backlog(),
            reviews=waiting["review"],
            later=waiting["later"],
            dead_letters=waiting["dead"],
            relocations=await _committed(http, self._recorder.metrics_url),
        )
        async with self._looks:
            self._look = look
            self._looks.notify_all()

    async def _show_live(self) -> None:
        with Live(self._table(), console=self._out, auto_refresh=False) as live:
            try:
                while True:
                    async with self._looks:
                        await self._looks.wait()
                    live.update(self._table(), refresh=True)
            finally:
                live.update(self._table(), refresh=True)

    async def _show_lines(self) -> None:
        try:
            while True:
                self._print_line()
                await asyncio.sleep(_LINE_S)
        finally:
            self._print_line()

    def _print_line(self) -> None:
        self._out.print(f"  {time.monotonic() - self._began:4.1f} s  {self._line()}")

    def _table(self) -> RenderableType:
        look = self._look
        if look is None:
            return self.act
        table = Table("level", "counts", box=None, pad_edge=False)
        for name in ("contents", "files on disk"):
            table.add_column(name, justify="right")
        for level in self._levels:
            name = level.content_level
            span = f"{level.min_counts}-{level.max_counts}"
            table.add_row(name, span, str(look.contents.get(name, 0)), str(look.files.get(name, 0)))
        return Group(self.act, table, _work(look))

    def _line(self) -> str:
        look = self._look
        if look is None:
            return self.act
        places = (f"{level.content_level} {look.contents.get(level.content_level, 0)}" for level in self._levels)
        return f"{self.act}: {', '.join(places)}; {_work(look)}"


def _work(look: Look) -> str:
    backlog = ", ".join(f"{name} {size}" for name, size in look.backlog.items())
    dead = f", {amount(look.dead_letters, 'dead letter')}" if look.dead_letters else ""
    done = f"{amount(look.reviews, 'review')} due, {amount(look.relocations, 'relocation')}"
    return f"backlog: {backlog}; {done}{dead}"


async def _committed(http: aiohttp.ClientSession, url: str) -> int:
    """Relocations that this recorder has committed; 0 while it does not answer."""
    try:
        async with http.get(f"{url}/metrics") as answer:
            text = await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return 0
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return round(sum(one.value for one in samples if one.name == "reshelve_relocations_committed_total"))
