"""Look at the entries on the streams, at states without rows and at reviews of nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from cli.audit.findings import Code, Finding
from cli.session import Session
from shared.keys import WORK_STREAMS
from shared.state.mending import Lying, Mending, Shelf

_AGAIN_S = 1.0
"""A service that is there drops an obsolete entry, or a review of nothing, within this time of its turn."""
_SHELVES: tuple[Shelf, ...] = ("later", *WORK_STREAMS)


async def entry_findings(session: Session, mending: Mending) -> AsyncIterator[Finding]:
    """Entries that nobody will receive, and entries whose content has moved on."""
    for partition in mending.partitions:
        for shelf in _SHELVES:
            async for page in mending.lying(partition, shelf):
                orphans = [entry for entry in page if entry.orphaned]
                if orphans:
                    await asyncio.sleep(_AGAIN_S)  # services take over such entries too, now and then
                for entry in orphans:
                    if await mending.is_orphaned(entry):
                        yield _orphaned(entry)
                for finding in await _obsolete(session, mending, [entry for entry in page if not entry.orphaned]):
                    yield finding


def _orphaned(entry: Lying) -> Finding:
    detail = f"{entry.shelf} entry {entry.entry_id} was delivered and is in nobody's hands: nobody will receive it"
    return Finding(Code.ENTRY_ORPHANED, detail, entry.cid, remedy="deliver anew", entry=entry)


async def _obsolete(session: Session, mending: Mending, entries: Sequence[Lying]) -> list[Finding]:
    suspects = await _without_content(session, entries)
    if not suspects:
        return []
    await asyncio.sleep(_AGAIN_S)
    suspects = await _without_content(session, suspects)
    return [
        Finding(
            Code.ENTRY_OBSOLETE,
            f"{entry.shelf} entry of move {entry.move_id}: the content is gone or in another move; "
            f"who takes it will drop it, unless nobody works",
            entry.cid,
            entry=entry,
        )
        for entry in suspects
        if await mending.is_there(entry)
    ]


async def _without_content(session: Session, entries: Sequence[Lying]) -> list[Lying]:
    named = [entry for entry in entries if entry.cid]
    if not named:
        return []
    states = await session.contents.read([entry.cid for entry in named])
    return [entry for entry, state in zip(named, states, strict=True) if state.move_id != entry.move_id]


async def states_without_row(session: Session, mending: Mending) -> AsyncIterator[list[str]]:
    """Pages of cids that Redis holds a state of and MySQL no row: whether that is wrong, a closer look tells."""
    async for cids in mending.known():
        rows = await session.inspection.tracked(cids)
        states = await session.contents.read(sorted({cid for cid in cids if cid not in rows}))
        # Views of an unknown content are kept for a while, and a forgotten one expires.
        yield [state.cid for state in states if state.status not in {"", "unknown", "forgotten"}]


async def review_findings(session: Session, mending: Mending) -> AsyncIterator[Finding]:
    """Reviews of what neither Redis nor MySQL knows, that no planner has dropped."""
    for partition in mending.partitions:
        async for cids in mending.reviews(partition):
            suspects = await _of_nothing(session, cids)
            if not suspects:
                continue
            await asyncio.sleep(_AGAIN_S)
            suspects = await _of_nothing(session, suspects)
            there = await mending.up_for_review(suspects)
            for cid, is_there in zip(suspects, there, strict=True):
                if is_there:
                    yield Finding(
                        Code.REVIEW_OF_NOTHING,
                        "up for review, but neither Redis nor MySQL knows it",
                        cid,
                        remedy="review",
                    )


async def _of_nothing(session: Session, cids: Sequence[str]) -> list[str]:
    if not cids:
        return []
    rows, states = await asyncio.gather(session.inspection.tracked(cids), session.contents.read(cids))
    return [state.cid for state in states if state.cid not in rows and not state.status and not state.at]
