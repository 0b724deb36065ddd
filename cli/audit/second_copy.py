"""Remove a second copy as a mover retires a source: locked, proven, asked, and only then unlinked."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

from cli.session import Session
from services.mover.beneath import open_file, open_parent, open_root
from services.mover.copying import digest_of, drop_cache, sync_file
from services.mover.identity import OpenFile, file_id, same_inode
from services.mover.retire import LockedSource, lock_source
from shared.catalog import Tracked
from shared.levels import Level
from shared.messages import Retire
from shared.moveid import new_move_id

_QUIET = {"", "idle"}


async def remove_second_copy(session: Session, row: Tracked, named: Level, other: Level, min_age_s: float) -> str:
    """Remove the content's file on `other`, where MySQL names the one on `named`; returns why not, else ''.

    The lock on the copy keeps a mover from adopting it, the lock on the row keeps MySQL from naming it, from the
    questions to the unlink. Raises RetryError, DeadLetterError or OSError with both copies in place.
    """
    order = await asyncio.to_thread(_order, row, named, other, min_age_s)
    if isinstance(order, str):
        return order
    source = await asyncio.to_thread(lock_source, order)
    if source is None:
        return "it is gone already"
    with source:
        why_not = await asyncio.to_thread(_differs, order)
        return why_not or await _ask_and_remove(session, row, source)


async def _ask_and_remove(session: Session, row: Tracked, source: LockedSource) -> str:
    async with session.inspection.held(row.cid) as said:
        if said != (row.level, row.filename):
            return f"MySQL says {said} by now"
        (state,) = await session.contents.read([row.cid])
        if state.status not in _QUIET:
            return f"its status is {state.status} by now"
        await asyncio.to_thread(source.remove)
        return ""


def _order(row: Tracked, named: Level, other: Level, min_age_s: float) -> Retire | str:
    """What a recorder would have ordered, with the files' ids as they are now; or why nothing may be removed."""
    with ExitStack() as held:
        kept, second = (_opened(level.path, row.filename, held) for level in (named, other))
        # A copy that was placed a moment ago may be in a commit that Redis, emptied since, knows nothing of.
        age_s = time.time() - max(second.stat.st_ctime, second.stat.st_mtime)
        if age_s < min_age_s:
            return f"it was changed {age_s:.0f} s ago, and may be somebody's who is at work"
        if kept.stat.st_size != second.stat.st_size:
            return "the copies have different sizes: compare them"
        now_ms = time.time_ns() // 1_000_000
        return Retire(
            move_id=new_move_id(),
            cid=row.cid,
            filename=row.filename,
            from_level=other.content_level,
            to_level=named.content_level,
            from_path=other.path,
            to_path=named.path,
            count=0,
            why="second copy",
            bytes=kept.stat.st_size,
            digest="",
            method="adopt",
            seconds=0,
            mover="audit",
            attempts=1,
            source_id=file_id(second.stat),
            target_id=file_id(kept.stat),
            viewed_at=0,
            planned_at=now_ms,
            placed_at=now_ms,
            not_before=0,
        )


def _differs(order: Retire) -> str:
    """Why the second copy must stay; '' where it has the bytes of the other one, as they are on the device."""
    with ExitStack() as held:
        kept = _opened(order.to_path, order.filename, held)
        second = _opened(order.from_path, order.filename, held)
        if same_inode(kept.stat, second.stat):
            return ""
        for file, known in ((kept, order.target_id), (second, order.source_id)):
            if file_id(file.stat) != known:
                return "one of the copies was changed meanwhile"
        # What stays must be durable, whoever wrote it: on the device first, and then read from there.
        sync_file(kept.fd)
        drop_cache(kept.fd)
        digests = {digest_of(file.fd, file.stat.st_size, lambda: False) for file in (kept, second)}
        if not (kept.is_unchanged() and second.is_unchanged()):
            return "one of the copies was changed meanwhile"
        return "" if len(digests) == 1 else "the copies have different content: compare them"


def _opened(path: str, filename: str, held: ExitStack) -> OpenFile:
    root = held.enter_context(open_root(path))
    return held.enter_context(open_file(held.enter_context(open_parent(root, filename))))
