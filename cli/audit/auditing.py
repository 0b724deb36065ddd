"""Go through all of it: contents by pages of cids, then what lies in Redis, then what lies on the levels.

By pages of cids with a stat on each level, and by walking the levels with a look-up of filenames a page at a time. A
merge of two sorted streams would need the directories sorted, that is in memory: this way a page, and a list of at most
`_SUSPECTS` cids, is all that is held, whatever the size of the catalog.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from cli.audit.files import Found, part_age_s, walk
from cli.audit.findings import Code, Finding
from cli.audit.judge import judge
from cli.audit.looking import glance, look_closer
from cli.audit.queues import entry_findings, review_findings, states_without_row
from cli.session import Session
from services.mover.markers import open_level
from shared.errors import InvalidError, ReshelveError
from shared.keys import META
from shared.levels import Level, Levels
from shared.names import check_filename
from shared.state.mending import SHELVES, Mending

_PAGE = 1000
_SUSPECTS = 5000


@dataclass(slots=True)
class Looked:
    """How much was looked at so far."""

    contents: int = 0
    files: int = 0


@dataclass
class Pace:
    """At most `rate` files a second, evenly."""

    rate: float
    _due: float = field(default_factory=time.monotonic)

    async def spend(self, files: int) -> None:
        """Wait for as long as that many files are worth."""
        self._due = max(self._due, time.monotonic() - 1) + files / self.rate
        await asyncio.sleep(max(0.0, self._due - time.monotonic()))


class Audit:
    """One audit. Looks only; what it finds wrong it has looked at twice."""

    def __init__(self, session: Session, pace: Pace, min_age_s: float, tell: Callable[[Looked], None]) -> None:
        """Parts younger than `min_age_s` may still be somebody's; `tell` hears how far it has come."""
        self._session = session
        self._mending = Mending(session.scripts)
        self._pace = pace
        self._min_age_s = min_age_s
        self._tell = tell
        self.looked = Looked()

    async def findings(self) -> AsyncIterator[Finding]:
        """The level table, contents in the order of their cids, Redis by partitions, files level by level."""
        try:
            levels = await self._session.catalog.levels()
        except InvalidError as error:
            yield Finding(Code.LEVELS_UNSOUND, f"{error} (nothing else was looked at)")
            return
        held = await self._session.catalog.count_by_level()
        away = {level.content_level for level in levels if not await self._is_there(level)}
        for name in sorted(away):
            detail = f"its directory or the marker in it is missing: mount it; its {held[name]} contents are left out"
            yield Finding(Code.LEVEL_MISSING, detail, level=name)
        async for finding in self._of_contents(levels):
            if finding.code != Code.FILE_MISSING or finding.level not in away:
                yield finding
        async for finding in self._of_redis(levels):
            yield finding
        for level in levels:
            async for finding in self._of_files(level):
                yield finding

    async def _is_there(self, level: Level) -> bool:
        marked = await cast(Any, self._session.redis).hexists(META, f"marked:{level.path}")
        return await asyncio.to_thread(_is_reachable, level, marked=bool(marked))

    async def closer(self, cids: Sequence[str], levels: Levels) -> list[Finding]:
        """What a closer look at these contents finds."""
        looked = await look_closer(self._session, self._mending, cids, levels)
        return [finding for facts in looked for finding in judge(facts)]

    async def _of_contents(self, levels: Levels) -> AsyncIterator[Finding]:
        after, suspects = "", list[str]()
        while rows := await self._session.inspection.page(after, _PAGE):
            after = rows[-1].cid
            # Without entries and reviews whatever moves is suspect too: the closer look tells.
            suspects += [facts.state.cid for facts in await glance(self._session, rows, levels) if judge(facts)]
            self.looked.contents += len(rows)
            self._tell(self.looked)
            if len(suspects) >= _SUSPECTS:
                for finding in await self.closer(suspects, levels):
                    yield finding
                suspects = []
            await self._pace.spend(len(rows))
        for finding in await self.closer(suspects, levels):
            yield finding

    async def _of_redis(self, levels: Levels) -> AsyncIterator[Finding]:
        async for cids in states_without_row(self._session, self._mending):
            if cids:
                for finding in await self.closer(cids, levels):
                    yield finding
        async for finding in review_findings(self._session, self._mending):
            yield finding
        async for finding in entry_findings(self._session, self._mending):
            yield finding

    async def _of_files(self, level: Level) -> AsyncIterator[Finding]:
        pages = walk(level.path, _PAGE)
        while True:
            try:
                page = await asyncio.to_thread(next, pages, None)
            except ReshelveError:
                return  # it is among the findings already
            if page is None:
                return
            for finding in await self.of_page(level, sorted(page, key=lambda found: found.filename)):
                yield finding
            self.looked.files += len(page)
            self._tell(self.looked)
            await self._pace.spend(len(page))

    async def of_page(self, level: Level, page: Sequence[Found]) -> list[Finding]:
        """What is wrong with names that lie on a level."""
        parts = [found for found in page if found.move_id]
        rest = [found for found in page if not found.move_id]
        return [*await self._unknown(level, rest), *await self._strays(level, parts)]

    async def _unknown(self, level: Level, page: Sequence[Found]) -> list[Finding]:
        odd = [found for found in page if found.kind != "file" or not _may_be_tracked(found.filename)]
        names = [found.filename for found in page if found not in odd] if odd else [found.filename for found in page]
        tracked = await self._session.inspection.among(names)
        unknown = [name for name in names if name not in tracked]
        if unknown:
            await asyncio.sleep(0.2)  # a registration in between
            tracked = await self._session.inspection.among(unknown)
        details = {found.filename: f"{found.kind}, in no row" for found in odd}
        details |= {name: "in no row" for name in unknown if name not in tracked}
        return [
            Finding(Code.UNKNOWN_FILE, detail, level=level.content_level, filename=name)
            for name, detail in sorted(details.items())
        ]

    async def _strays(self, level: Level, parts: Sequence[Found]) -> list[Finding]:
        if not parts:
            return []
        in_use = await self.open_moves()
        findings = []
        for part in parts:
            try:
                age_s = await asyncio.to_thread(part_age_s, level.path, part.filename)
            except (ReshelveError, OSError) as error:
                findings.append(Finding(Code.UNREADABLE, str(error), level=level.content_level, filename=part.filename))
                continue
            if age_s is not None and age_s >= self._min_age_s and part.move_id not in in_use:
                detail = f"left behind by move {part.move_id}, which is no longer open"
                findings.append(
                    Finding(
                        Code.STRAY_PART,
                        detail,
                        level=level.content_level,
                        filename=part.filename,
                        remedy="remove part",
                    )
                )
        return findings

    async def open_moves(self) -> set[str]:
        """The move_ids of all entries, wherever they lie."""
        found: set[str] = set()
        for _ in range(2):  # twice: one that is put aside just then goes from a shelf still to come to one looked at
            for partition in self._mending.partitions:
                for shelf in SHELVES:
                    async for page in self._mending.lying(partition, shelf):
                        found.update(entry.move_id for entry in page)
        return found


def _is_reachable(level: Level, *, marked: bool) -> bool:
    try:
        with open_level(level.path, marked=marked):
            return True
    except ReshelveError:
        return False


def _may_be_tracked(filename: str) -> bool:
    try:
        check_filename(filename)
    except InvalidError:
        return False
    return True
