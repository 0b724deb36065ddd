"""`reshelve explain CID`: one content's standing, and why it is there."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import orjson

from cli.running import fail
from cli.session import Session, opened
from cli.terminal import console, shown
from shared.catalog import Row
from shared.catalog.catalog import Relocation
from shared.levels import UNBOUNDED, Band, Level, Levels
from shared.names import check_cid
from shared.state.contents import OPEN_STATUSES, ContentState

FileThere = Literal["yes", "no", "not a regular file", "not visible"]
"""`not visible`: the level's directory is not there, seen from this machine."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """`decision` is the planner's last one in its own words; times are ms; `lo` and `hi` are the band's ends."""

    cid: str
    filename: str
    level: str
    path: str
    file: FileThere
    count: int
    lo: int | None
    hi: int | None
    status: str
    target: str | None
    move_id: str | None
    worker: str | None
    attempts: int
    error: str | None
    why: str
    decision: str | None
    review_due: int | None
    last_view: int | None
    last_relocation: Relocation | None


async def show_explanation(cid: str, data_dir: Path, *, as_json: bool) -> int:
    """Print what is known of a content; 1 where nothing is."""
    check_cid(cid)
    async with opened(data_dir) as session:
        found = await explain(session, cid)
    if isinstance(found, str):
        fail(found)
    if as_json:
        print(orjson.dumps(asdict(found)).decode())
    else:
        out = console()
        for label, text in lines(found, round(time.time() * 1000)):
            out.print(f"{label:<11} {text}", soft_wrap=True)
    return 0


async def explain(session: Session, cid: str) -> Explanation | str:
    """What is known of a content, or a line that says that it is unknown."""
    (state,) = await session.contents.read([cid])
    row = (await session.catalog.rows([cid])).get(cid)
    if row is None:
        return _unknown(state)
    levels = await session.catalog.levels()
    level = levels.get(row.level)
    assert level is not None  # the catalog's foreign key
    count = count_of(state, row, level)
    due = await session.redis.zscore(session.scripts.of(cid).review, cid)
    return Explanation(
        cid=cid,
        filename=row.filename,
        level=row.level,
        path=f"{level.path}/{row.filename}",
        file=await asyncio.to_thread(look_for, level.path, row.filename),
        count=count,
        lo=state.lo,
        hi=state.hi,
        status=state.status or "idle",
        target=state.target or None,
        move_id=state.move_id or None,
        worker=state.worker_id or None,
        attempts=state.attempt,
        error=state.error or None,
        why=why(state, count, level, levels, due=due is not None),
        decision=state.why or None,
        review_due=None if due is None else round(due),
        last_view=state.at or None,
        last_relocation=next(iter(await session.catalog.relocations(cid, 1)), None),
    )


def _unknown(state: ContentState) -> str:
    if state.status in {"", "forgotten"}:
        return (
            f"content {state.cid} is unknown: neither the catalog nor Redis has it: "
            "register it with POST /v1/contents or `reshelve import`"
        )
    return (
        f"content {state.cid} is not in the catalog; Redis keeps its count ({state.count}) for a while: "
        "register it with POST /v1/contents or `reshelve import`"
    )


def count_of(state: ContentState, row: Row, level: Level) -> int:
    """The count; one that Redis has not held against the catalog yet starts where its level or last relocation did."""
    if state.level or state.absolute:
        return state.count
    return state.count + (level.min_counts if row.last_count is None else row.last_count)


def look_for(root: str, filename: str) -> FileThere:
    """Whether the file lies there; a symbolic link is no file."""
    if not Path(root).is_dir():
        return "not visible"
    try:
        found = os.lstat(f"{root}/{filename}")
    except (FileNotFoundError, NotADirectoryError):
        return "no"
    except OSError:
        return "not visible"
    return "yes" if stat.S_ISREG(found.st_mode) else "not a regular file"


def why(state: ContentState, count: int, level: Level, levels: Levels, *, due: bool) -> str:
    """In plain words why the content is where it is, and what would move it. Pure."""
    if state.status == "failed":
        return f"stays on {level.content_level} though count {count} asks for {state.target}: {state.error}"
    if state.status in OPEN_STATUSES:
        return f"{_UNDER_WAY[state.status].format(target=state.target, level=level.content_level)}: {state.why}"
    asked = levels.level_for(count)
    if asked != level:
        waits = "its review is due" if due else "no review is asked for: the next view brings one"
        return f"is on {level.content_level}, but count {count} asks for {asked.content_level}: {waits}"
    return (
        f"rests on {level.content_level}: count {count} is within {_span(levels.band(level))}{_bounds(level, levels)}"
    )


_UNDER_WAY = {
    "update": "waits for a mover to take it to {target}",
    "moving": "is being placed on {target}",
    "done": "is placed on {target}, and waits for the commit",
    "retiring": "is on {level} by the catalog; its source copy is being retired",
}


def _span(band: Band) -> str:
    return f"{band.lo} and more" if band.hi == UNBOUNDED else f"{band.lo}–{band.hi - 1}"


def _bounds(level: Level, levels: Levels) -> str:
    band = levels.band(level)
    moves = []
    if band.hi != UNBOUNDED:
        moves.append(f"moves to {levels.level_for(band.hi).content_level} at {band.hi}")
    if band.lo > 0:
        moves.append(f"to {levels.level_for(band.lo - 1).content_level} below {band.lo}")
    if len(moves) == 1 and band.lo > 0:
        moves = [f"moves {moves[0]}"]
    return f"; {', '.join(moves)}" if moves else ""


def lines(found: Explanation, now_ms: int) -> list[tuple[str, str]]:
    """Label and text of each line; what there is nothing to say about is left out."""
    rows: list[tuple[str, str | None]] = [
        ("content", f"{found.cid}  {shown(found.filename)}"),
        ("why", found.why),
        ("count", f"{found.count}{_ago(', last view', found.last_view, now_ms)}"),
        ("level", found.level),
        ("file", f"{shown(found.path)}  ({_THERE[found.file]})"),
        (
            "band",
            None if found.lo is None or found.hi is None else f"no review while {_span(Band(found.lo, found.hi))}",
        ),
        ("status", found.status),
        ("target", found.target),
        ("move", found.move_id),
        ("worker", found.worker),
        ("attempts", str(found.attempts) if found.attempts else None),
        ("last error", found.error),
        ("decision", found.decision),
        ("relocation", _relocation(found.last_relocation)),
        ("review", None if found.review_due is None else f"due {_when(found.review_due)}"),
    ]
    return [(label, text) for label, text in rows if text is not None]


_THERE: dict[FileThere, str] = {
    "yes": "there",
    "no": "MISSING",
    "not a regular file": "NOT A REGULAR FILE",
    "not visible": "not visible from here",
}


def _relocation(last: Relocation | None) -> str:
    if last is None:
        return "never relocated"
    moved = f"{last.from_level} → {last.to_level} by {last.method}"
    return f"{moved}, committed {_when(last.committed_at)}: {last.why}"


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().isoformat(" ", "seconds")


def _ago(label: str, at_ms: int | None, now_ms: int) -> str:
    return "" if at_ms is None else f"{label} {max(0, now_ms - at_ms) / 1000:.0f} s ago"
