"""Look closer at contents: at everything at once, again and again until it holds still."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from cli.audit.judge import Facts, Sameness, Sight, is_moving_on
from cli.audit.sights import compare, look_at
from cli.session import Session
from shared.catalog import Tracked
from shared.levels import Levels
from shared.state.contents import ContentState
from shared.state.mending import SHELVES, Mending, Shelf

_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
"""Before the second and each further look; what has changed at all of them is alive."""

_Entries = dict[str, set[tuple[Shelf, str, str]]]


async def glance(session: Session, rows: Sequence[Tracked], levels: Levels) -> list[Facts]:
    """The cheap first look at a page of rows: no entries, no reviews, nothing compared."""
    states, seen = await asyncio.gather(
        session.contents.read([row.cid for row in rows]), asyncio.to_thread(look_at, rows, levels)
    )
    return [
        Facts(state, row, sights=seen.sights[row.cid], out_of_sight=seen.out_of_sight)
        for row, state in zip(rows, states, strict=True)
    ]


async def look_closer(session: Session, mending: Mending, cids: Sequence[str], levels: Levels) -> list[Facts]:
    """The facts of those contents whose row and state were the same before and after all else was looked at.

    In the order of `cids`. A content that never holds still is left out: somebody is moving it on.
    """
    settled: dict[str, Facts] = {}
    left = list(dict.fromkeys(cids))
    for pause_s in (0.0, *_PAUSES_S):
        if not left:
            break
        await asyncio.sleep(pause_s)
        for facts in await _look(session, mending, left, levels):
            settled[facts.state.cid] = facts
        left = [cid for cid in left if cid not in settled]
    return [settled[cid] for cid in dict.fromkeys(cids) if cid in settled]


async def _look(session: Session, mending: Mending, cids: Sequence[str], levels: Levels) -> list[Facts]:
    before = await _row_and_state(session, cids)
    rows = [row for row, _ in before.values() if row is not None]
    seen = await asyncio.to_thread(look_at, rows, levels)
    reviews = dict(zip(cids, await mending.up_for_review(cids), strict=True))
    entries = await _entries_of(mending, cids)
    looked = [
        Facts(
            state=state,
            row=row,
            up_for_review=reviews[cid],
            entries=frozenset(entries[cid]),
            sights=seen.sights.get(cid, {}),
            out_of_sight=seen.out_of_sight,
        )
        for cid, (row, state) in before.items()
    ]
    compared = [replace(facts, sameness=await _sameness(facts, levels)) for facts in looked]
    after = await _row_and_state(session, cids)
    return [facts for facts in compared if _same(before[facts.state.cid], after[facts.state.cid])]


async def _row_and_state(session: Session, cids: Sequence[str]) -> dict[str, tuple[Tracked | None, ContentState]]:
    rows, states = await asyncio.gather(session.inspection.tracked(cids), session.contents.read(cids))
    return {state.cid: (rows.get(state.cid), state) for state in states}


def _same(before: tuple[Tracked | None, ContentState], after: tuple[Tracked | None, ContentState]) -> bool:
    """Counting goes on all the time, and moves nothing."""
    (row, state), (row_after, state_after) = before, after
    return row == row_after and state == replace(state_after, count=state.count, at=state.at)


async def _entries_of(mending: Mending, cids: Sequence[str]) -> _Entries:
    """The entries of these contents, wherever they lie."""
    found: _Entries = defaultdict(set)
    wanted = set(cids)
    for partition in sorted(mending.partitions_of(wanted)):
        for shelf in SHELVES:
            async for page in mending.lying(partition, shelf):
                for entry in page:
                    if entry.cid in wanted:
                        found[entry.cid].add((entry.shelf, entry.origin, entry.move_id))
    return found


async def _sameness(facts: Facts, levels: Levels) -> dict[str, Sameness]:
    """Of the copies on other levels than MySQL names. Not of a content that is moving: that is what moving is."""
    if facts.row is None or is_moving_on(facts) or not _is_file(facts.sights.get(facts.row.level)):
        return {}
    paths = {level.content_level: level.path for level in levels}
    others = [name for name in _files(facts.sights.items()) if name != facts.row.level]
    return {
        name: await asyncio.to_thread(compare, facts.row.filename, paths[facts.row.level], paths[name])
        for name in others
    }


def _is_file(sight: Sight | None) -> bool:
    return sight is not None and sight.kind == "file"


def _files(sights: Iterable[tuple[str, Sight]]) -> list[str]:
    return [name for name, sight in sights if sight.kind == "file"]
