"""Reviews: claim due contents, gather the facts, decide, apply."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from services.planner.decide import Decision, Facts, Open, Rest, Unknown, decide
from services.planner.level_table import LevelTable
from shared import metrics
from shared.catalog import Catalog, Row
from shared.levels import COUNT_MAX
from shared.log import Log, info_each
from shared.messages import Move
from shared.moveid import new_move_ids
from shared.patience import patiently, pause
from shared.state.reviews import Due, Opening, Resting, Reviews

_IDLE_S = 0.2
"""How late a review may start that another process asked for; this planner's own tally wakes it at once."""
_KEEP_UNKNOWN_MS = 7 * 24 * 3600 * 1000
_ASK_AGAIN_MS = 10 * 60 * 1000
_ROWS_AT_ONCE = 1024
OUTCOMES = ("open", "rest", "unknown", "dismissed", "stale")
_READY = frozenset({"", "idle", "unknown"})

Reviewed = tuple[Due, Row | None, Decision]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Contents that were claimed together, by partition, and the catalog's rows of those that can be decided on."""

    states: Mapping[int, Sequence[Due]]
    rows: Mapping[str, Row]

    def __bool__(self) -> bool:
        return bool(self.states)


_NOTHING = Gathered({}, {})


class Reviewing:
    """Any number may run, in any number of processes: versions keep them from harm."""

    def __init__(self, reviews: Reviews, catalog: Catalog, log: Log, *, table: LevelTable) -> None:
        """`table` must have been read once before the first review."""
        self._reviews = reviews
        self._catalog = catalog
        self._log = log
        self._table = table
        self.wake = asyncio.Event()

    async def run(self, partitions: int, limit: int, lease_ms: int, stop: asyncio.Event) -> None:
        """Until stopped. The next facts are gathered while what was gathered before is decided on and applied."""
        gathered = _NOTHING

        async def turn() -> None:
            nonlocal gathered
            # Not applied again after an outage: the facts would be as old as it was long. They are due again later.
            taken, gathered = gathered, _NOTHING
            _, gathered = await asyncio.gather(self.apply(taken), self.gather(range(partitions), limit, lease_ms))

        while not stop.is_set():
            self.wake.clear()
            await patiently(turn, stop, self._log, "review")
            metrics.LAST_SUCCESS.labels("review").set_to_current_time()
            if not gathered:
                await pause(self.wake, _IDLE_S)
        await patiently(lambda: self.apply(gathered), stop, self._log, "review")

    async def gather(self, partitions: Sequence[int], limit: int, lease_ms: int) -> Gathered:
        """Claim what is due, at most `limit` of each partition, and read what there is to know of it."""
        claimed = await asyncio.gather(*(self._claim(partition, limit, lease_ms) for partition in partitions))
        states = {partition: due for partition, due in zip(partitions, claimed, strict=True) if due}
        if not states:
            return _NOTHING
        # Read after the claim: whoever changes the table asks for these reviews again, which the scripts then see.
        await self._table.load()
        rows = await self._rows([due.cid for due in chain(*states.values()) if due.status in _READY])
        if any(self._table.current().get(row.level) is None for row in rows.values()):
            await self._table.load()
        return Gathered(states, rows)

    async def _claim(self, partition: int, limit: int, lease_ms: int) -> list[Due]:
        cids = await self._reviews.claim(partition, limit, lease_ms)
        return await self._reviews.look(partition, cids) if cids else []

    async def _rows(self, cids: Sequence[str]) -> dict[str, Row]:
        parts = [cids[at : at + _ROWS_AT_ONCE] for at in range(0, len(cids), _ROWS_AT_ONCE)]
        found = await asyncio.gather(*map(self._catalog.rows, parts))
        return {cid: row for rows in found for cid, row in rows.items()}

    async def apply(self, gathered: Gathered) -> None:
        """Decide on each content, and let the scripts do it."""
        await asyncio.gather(*(self._apply(part, states, gathered.rows) for part, states in gathered.states.items()))

    async def _apply(self, partition: int, states: Sequence[Due], rows: Mapping[str, Row]) -> None:
        ready = [(state, rows.get(state.cid)) for state in states if state.status in _READY]
        # A content on a level that even the fresh table lacks stays claimed, and is due again after the lease.
        known = [item for item in ready if self._on_a_known_level(item[1])]
        reviewed = [self._decide(*item) for item in known]
        await self._open(partition, [item for item in reviewed if isinstance(item[2], Open)])
        await self._rest_all(partition, [item for item in reviewed if isinstance(item[2], Rest)])
        unknown = [state for state, _, decision in reviewed if isinstance(decision, Unknown)]
        await self._put_off(partition, [*unknown, *(state for state in states if state.status == "forgotten")])
        away = [state for state in states if state.status not in _READY and state.status != "forgotten"]
        await self._dismiss(partition, away)

    def _on_a_known_level(self, row: Row | None) -> bool:
        return row is None or self._table.current().get(row.level) is not None

    def _decide(self, state: Due, row: Row | None) -> Reviewed:
        levels = self._table.current()
        level = levels.get(row.level) if row else None
        facts = Facts(state.cid, level, min(state.count + self._base(state, row), COUNT_MAX))
        return state, row, decide(facts, levels, _now_ms())

    def _base(self, state: Due, row: Row | None) -> int:
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
        ids, now_ms = new_move_ids(len(items)), _now_ms()
        openings = [self._opening(*item, move_id, now_ms) for item, move_id in zip(items, ids, strict=True)]
        replies = await self._reviews.open(partition, openings)
        moves = [opening.move for opening, opened in zip(openings, replies, strict=True) if opened]
        metrics.REVIEWS.labels("open").inc(len(moves))
        metrics.REVIEWS.labels("stale").inc(len(openings) - len(moves))
        for ways, number in Counter((move.from_level, move.to_level) for move in moves).items():
            metrics.MOVES_OPENED.labels(*ways).inc(number)
        info_each(
            self._log,
            "opened",
            [{"cid": move.cid, "move_id": move.move_id, "to": move.to_level, "why": move.why} for move in moves],
        )

    def _opening(self, state: Due, row: Row | None, decision: Decision, move_id: str, now_ms: int) -> Opening:
        assert row is not None
        assert isinstance(decision, Open)
        base = self._base(state, row)
        move = Move(
            move_id=move_id,
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
        replies = await self._reviews.rest(partition, [self._resting(*item) for item in items])
        stale = replies.count(0)
        metrics.REVIEWS.labels("rest").inc(len(replies) - stale)
        metrics.REVIEWS.labels("stale").inc(stale)

    def _resting(self, state: Due, row: Row | None, decision: Decision) -> Resting:
        assert row is not None
        assert isinstance(decision, Rest)
        base = self._base(state, row)
        level = decision.level.content_level
        return Resting(state.cid, state.version, level, base, decision.band, decision.why, decision.again_ms)

    async def _put_off(self, partition: int, states: Sequence[Due]) -> None:
        if not states:
            return
        items = [(state.cid, state.version) for state in states]
        await self._reviews.unknown(partition, items, _KEEP_UNKNOWN_MS, _ASK_AGAIN_MS)
        metrics.REVIEWS.labels("unknown").inc(len(items))

    async def _dismiss(self, partition: int, states: Sequence[Due]) -> None:
        if not states:
            return
        await self._reviews.dismiss(partition, [(state.cid, state.version) for state in states])
        metrics.REVIEWS.labels("dismissed").inc(len(states))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
