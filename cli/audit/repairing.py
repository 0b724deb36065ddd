"""Carry out the remedies of findings, each after another look: what has moved on meanwhile is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from cli.audit.auditing import Audit
from cli.audit.files import part_move_id, remove_part
from cli.audit.findings import Code, Finding
from cli.audit.judge import Facts, judge
from cli.audit.looking import look_closer
from cli.audit.second_copy import remove_second_copy
from cli.session import Session
from cli.terminal import shown
from shared.errors import ReshelveError
from shared.levels import Levels
from shared.state.mending import Mending
from shared.state.reviews import Reviews

_BATCH = 500
_KEEP_MS = 1000
"""Nothing is kept: there is nothing."""
_MOVED_ON = "it moved on meanwhile"
_ABOUT_CONTENTS = {"make idle", "review", "remove second copy"}


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of one finding; `why_not` is empty where it was mended."""

    finding: Finding
    why_not: str = ""

    def line(self) -> str:
        """For people."""
        done = f"not mended, {self.why_not}" if self.why_not else "mended"
        return shown(f"{done}: {self.finding.remedy}: ") + self.finding.line()

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {**self.finding.record(), "kind": "repair", "mended": not self.why_not, "why_not": self.why_not}


class Repairing:
    """Safe to repeat, and to break off anywhere."""

    def __init__(self, session: Session, audit: Audit, min_age_s: float) -> None:
        """Files younger than `min_age_s` are left alone; `audit` knows which moves are open."""
        self._session = session
        self._audit = audit
        self._mending = Mending(session.scripts)
        self._min_age_s = min_age_s

    async def repair(self, findings: Sequence[Finding]) -> AsyncIterator[Repair]:
        """States first: only of a content that is settled a second copy can be judged."""
        levels = await self._session.catalog.levels()
        cids = list(dict.fromkeys(one.cid for one in findings if one.remedy in _ABOUT_CONTENTS))
        for start in range(0, len(cids), _BATCH):
            async for repair in self._mend_contents(cids[start : start + _BATCH], levels):
                yield repair
        for finding in findings:
            if finding.code == Code.REVIEW_OF_NOTHING:
                yield await self._drop_review(finding)
            elif finding.remedy == "deliver anew" and finding.entry is not None:
                delivered = await self._mending.requeue(finding.entry)
                yield Repair(finding, "" if delivered else _MOVED_ON)
        async for repair in self._remove_parts([one for one in findings if one.remedy == "remove part"], levels):
            yield repair

    async def _mend_contents(self, cids: Sequence[str], levels: Levels) -> AsyncIterator[Repair]:
        for facts in await look_closer(self._session, self._mending, cids, levels):
            for finding in judge(facts):
                if finding.remedy in {"make idle", "review"}:
                    yield Repair(finding, await self._mend_state(facts, finding))
        for facts in await look_closer(self._session, self._mending, cids, levels):
            for finding in judge(facts):
                if finding.remedy == "remove second copy":
                    yield Repair(finding, await self._remove_copy(facts, finding, levels))

    async def _drop_review(self, finding: Finding) -> Repair:
        (partition,) = self._mending.partitions_of([finding.cid])
        # The planner's own verb drops the review of what is not there.
        (dropped,) = await Reviews(self._session.scripts).unknown(partition, [(finding.cid, "0")], _KEEP_MS, _KEEP_MS)
        return Repair(finding, "" if dropped else _MOVED_ON)

    async def _mend_state(self, facts: Facts, finding: Finding) -> str:
        state, row = facts.state, facts.row
        if finding.remedy == "review":
            touched = await self._session.contents.touch([state.cid])
            return "" if touched else "it is gone"
        level, filename = (row.level, row.filename) if row else ("", "")
        return "" if await self._mending.mend(state, level, filename) else _MOVED_ON

    async def _remove_copy(self, facts: Facts, finding: Finding, levels: Levels) -> str:
        assert facts.row is not None
        named, other = levels.get(facts.row.level), levels.get(finding.level)
        if named is None or other is None:
            return "the level table was changed meanwhile"
        try:
            return await remove_second_copy(self._session, facts.row, named, other, self._min_age_s)
        except (ReshelveError, OSError) as error:
            return str(error)

    async def _remove_parts(self, findings: Sequence[Finding], levels: Levels) -> AsyncIterator[Repair]:
        if not findings:
            return
        in_use = await self._audit.open_moves()
        for finding in findings:
            level = levels.get(finding.level)
            if level is None or part_move_id(finding.filename) in in_use:
                yield Repair(finding, "its move is open, or its level gone")
                continue
            try:
                removed = await asyncio.to_thread(remove_part, level.path, finding.filename, self._min_age_s)
            except (ReshelveError, OSError) as error:
                yield Repair(finding, str(error))
            else:
                yield Repair(finding, "" if removed else "it is gone, or was changed a moment ago")
