"""Reviews: claim due contents, gather the facts, decide, apply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from services.planner.decide import Decision, Facts, Open, Rest, Unknown, decide
from services.planner.level_table import LevelTable
from shared import metrics
from shared.catalog import Catalog, Row
from shared.levels import COUNT_MAX
from shared.log import Log
from shared.messages import Move
from shared.moveid import new_move_id
from shared.patience import patiently, pause
from shared.state.contents import Contents, ContentState
from shared.state.reviews import Opening, Resting, Reviews

_IDLE_S = 0.2
"""How late a review may start that another process asked for; this planner's own tally wakes it at once."""
_KEEP_UNKNOWN_MS = 7 * 24 * 3600 * 1000
_ASK_AGAIN_MS = 10 * 60 * 1000
OUTCOMES = ("open", "rest", "unknown", "dismissed", "stale")

Reviewed = tuple[ContentState, Row | None, Decision]


class Reviewing:
    """Any number may run, in any number of processes: versions keep them from harm."""

    def __init__(self, contents: Contents, reviews: Reviews, catalog: Catalog, log: Log, *, table: LevelTable) -> None:
        """`table` must have been read once before the first review."""
        self._contents = contents
        self._reviews = reviews
        self._catalog = catalog
        self._log = log
        self._table = table
        self.wake = asyncio.Event()

    async def run(self, partitions: int, limit: int, lease_ms: int, stop: asyncio.Event) -> None:
        """Until stopped."""

        async def review_all() -> int:
            counts = await asyncio.gather(*(self.review(p, limit, lease_ms) for p in range(partitions)))
            return sum(counts)

        while not stop.is_set():
            self.wake.clear()
            reviewed = await patiently(review_all, stop, self._log, "review")
            metrics.LAST_SUCCESS.labels("review").set_to_current_time()
            if not reviewed:
                await pause(self.wake, _IDLE_S)

    async def review(self, partition: int, limit: int, lease_ms: int) -> int:
        """Review what is due in one partition; returns how many contents were looked at."""
        cids = await self._reviews.claim(partition, limit, lease_ms)
        if not cids:
            return 0
        # Read after the claim: whoever changes the table asks for these reviews again, which the scripts then see.
        await self._table.load()
        states = await self._contents.read(cids)
        ready = [state for state in states if state.status in {"", "idle", "unknown"}]
        rows = await self._catalog.rows([state.cid for state in ready])
        levels = self._table.current()
        if any(levels.get(row.level) is None for row in rows.values()):
            await self._table.load()
        # A content on a level that even the fresh table lacks stays claimed, and is due again after the lease.
        known = [state for state in ready if self._on_a_known_level(rows.get(state.cid))]
        reviewed = [self._decide(state, rows.get(state.cid)) for state in known]
        await self._open(partition, [item for item in reviewed if isinstance(item[2], Open)])
        await self._rest_all(partition, [item for item in reviewed if isinstance(item[2], Rest)])
        unknown = [state for state, _, decision in reviewed if isinstance(decision, Unknown)]
        await self._put_off(partition, [*unknown, *(state for state in states if state.status == "forgotten")])
        away = [state for state in states if state.status not in {"", "idle", "unknown", "forgotten"}]
        await self._dismiss(partition, away)
        return len(cids)

    def _on_a_known_level(self, row: Row | None) -> bool:
        return row is None or self._table.current().get(row.level) is not None

    def _decide(self, state: ContentState, row: Row | None) -> Reviewed:
        levels = self._table.current()
        level = levels.get(row.level) if row else None
        facts = Facts(state.cid, level, min(state.count + self._base(state, row), COUNT_MAX))
        return state, row, decide(facts, levels, _now_ms())

    def _base(self, state: ContentState, row: Row | None) -> int:
        """What a content that Redis did not know starts from: neither an import nor a lost Redis demotes anything."""
        if row is None or state.level or state.absolute:
            return 0
        if row.last_count is not None:
            return row.last_count
        level = self._table.current().get(row.level)
        return level.min_counts if level else 0

    async def _open(self, partition: int, items: Sequence[Reviewed]) -> None:
        if not items:
            return
        openings = [self._opening(*item) for item in items]
        for opening, opened in zip(openings, await self._reviews.open(partition, openings), strict=True):
            move = opening.move
            metrics.REVIEWS.labels("open" if opened else "stale").inc()
            if opened:
                metrics.MOVES_OPENED.labels(move.from_level, move.to_level).inc()
                self._log.info("opened", cid=move.cid, move_id=move.move_id, to=move.to_level, why=move.why)

    def _opening(self, state: ContentState, row: Row | None, decision: Decision) -> Opening:
        assert row is not None
        assert isinstance(decision, Open)
        base = self._base(state, row)
        now_ms = _now_ms()
        move = Move(
            move_id=new_move_id(),
            cid=state.cid,
            filename=row.filename,
            from_level=decision.source.content_level,
            to_level=decision.target.content_level,
            from_path=decision.source.path,
            to_path=decision.target.path,
            count=min(state.count + base, COUNT_MAX),
            why=decision.why,
            viewed_at=state.at,
            planned_at=now_ms,
        )
        return Opening(move, state.version, base)

    async def _rest_all(self, partition: int, items: Sequence[Reviewed]) -> None:
        if not items:
            return
        restings = [self._resting(*item) for item in items]
        for reply in await self._reviews.rest(partition, restings):
            metrics.REVIEWS.labels("rest" if reply else "stale").inc()

    def _resting(self, state: ContentState, row: Row | None, decision: Decision) -> Resting:
        assert row is not None
        assert isinstance(decision, Rest)
        base = self._base(state, row)
        level = decision.level.content_level
        return Resting(state.cid, state.version, level, base, decision.band, decision.why, decision.again_ms)

    async def _put_off(self, partition: int, states: Sequence[ContentState]) -> None:
        if not states:
            return
        items = [(state.cid, state.version) for state in states]
        await self._reviews.unknown(partition, items, _KEEP_UNKNOWN_MS, _ASK_AGAIN_MS)
        metrics.REVIEWS.labels("unknown").inc(len(items))

    async def _dismiss(self, partition: int, states: Sequence[ContentState]) -> None:
        if not states:
            return
        await self._reviews.dismiss(partition, [(state.cid, state.version) for state in states])
        metrics.REVIEWS.labels("dismissed").inc(len(states))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
