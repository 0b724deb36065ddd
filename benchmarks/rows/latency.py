"""View to commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.latency import Latency, Seen, percentile, stage_figures
from benchmarks.measure import Bound, Row
from benchmarks.system import Servers, two_cores

_SINGLE = 200
_BURST = 4000
_STEADY_S = 6.0


def rows(work: Path, scale: float) -> Iterator[Row]:
    """From the POST until another connection to MySQL, which looks every millisecond, sees the new level.

    Each content is at rest, one view short of its next level.
    All four services run (two movers), files are linked on one filesystem. `idle`: one view at a time, with a pause of
    20 to 120 ms after everything is at rest. `half load`: first a burst finds the most relocations a second, then a new
    system gets half of that, steadily.
    """
    views = max(20, round(_SINGLE * scale))
    burst = max(100, round(_BURST * scale))
    with two_cores(), Servers.started(work) as servers:
        idle = Rounds(lambda: asyncio.run(_idle(servers, views)))
        yield idle.row("view to commit, idle, p50", 50, 30)
        yield idle.row("view to commit, idle, p99", 99, 100)
        half = Rounds(lambda: asyncio.run(_half_load(servers, burst, _STEADY_S * min(1.0, 4 * scale))))
        yield half.row("view to commit, half load, p99", 99, 500)


class Rounds:
    """A round serves the rows of several percentiles: it is measured for the first that asks for it."""

    def __init__(self, take: Callable[[], tuple[Sequence[Seen], dict[str, float]]]) -> None:
        self._take = take
        self._taken: list[Sequence[Seen]] = []
        self._asked: dict[float, int] = {}
        self._details: dict[str, float] = {}

    def row(self, name: str, percent: float, most_ms: float) -> Row:
        def ours() -> float:
            number = self._asked.get(percent, 0)
            self._asked[percent] = number + 1
            if number == len(self._taken):
                seen, more = self._take()
                self._taken.append(seen)
                self._details |= more | stage_figures(seen)
            return percentile([each.ms for each in self._taken[number]], percent)

        return Row(name, "ms", ours, None, (Bound("ours", "<=", most_ms),), self._details)


async def _idle(servers: Servers, views: int) -> tuple[Sequence[Seen], dict[str, float]]:
    async with Latency.running(servers, views) as latency:
        return await latency.one_at_a_time(views), {"views": views}


async def _half_load(servers: Servers, burst: int, seconds: float) -> tuple[Sequence[Seen], dict[str, float]]:
    async with Latency.running(servers, burst, look_s=0.005) as latency:
        most_per_s = await latency.at_once(burst)
    per_s = most_per_s / 2
    views = max(20, round(per_s * seconds))
    async with Latency.running(servers, views, look_s=0.005) as latency:
        return await latency.steadily(per_s, views), {"most, commits/s": most_per_s, "views": views}
