"""What is wrong with one content: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cli.audit.findings import Code, Finding, Remedy
from shared.catalog import Tracked
from shared.state.contents import OPEN_STATUSES, ContentState
from shared.state.mending import Shelf

Kind = Literal["file", "other", "unreadable"]
Sameness = Literal["one inode", "same content", "other size", "other content", "one entry", "not compared"]
"""How a second copy compares with the one that MySQL names. `one entry`: two names of one directory."""
_REMOVABLE: frozenset[Sameness] = frozenset({"one inode", "same content"})

_NEEDED: Mapping[str, tuple[Code, frozenset[str]]] = {
    "update": (Code.MOVE_LOST, frozenset({"moves"})),
    "moving": (Code.MOVE_LOST, frozenset({"moves"})),
    "done": (Code.PLACED_LOST, frozenset({"placed"})),
    "retiring": (Code.RETIRE_LOST, frozenset({"retires"})),
    "failed": (Code.LETTER_LOST, frozenset({"dead"})),
}
"""The entry without which no service will ever move a content of this status on."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What stands under a content's filename on one level; `changed_at` is the later of mtime and ctime, s."""

    kind: Kind
    size: int = 0
    changed_at: float = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All about one content at one moment. `entries` are (where it lies, the stream it is for, its move_id)."""

    state: ContentState
    row: Tracked | None = None
    up_for_review: bool = False
    entries: frozenset[tuple[Shelf, str, str]] = frozenset()
    sights: Mapping[str, Sight] = field(default_factory=dict)
    out_of_sight: frozenset[str] = frozenset()
    """Levels whose directory cannot be reached."""
    sameness: Mapping[str, Sameness] = field(default_factory=dict)


def judge(facts: Facts) -> list[Finding]:
    """The state's findings first, then those about its file."""
    return [*_of_state(facts), *_of_files(facts)]


def is_moving_on(facts: Facts) -> bool:
    """Whether a relocation is open and its entry is there: a second copy is as it should be."""
    return facts.state.status in OPEN_STATUSES and _has_entry(facts)


def _has_entry(facts: Facts) -> bool:
    _, streams = _NEEDED[facts.state.status]
    return any(
        (shelf in streams or (shelf == "later" and origin in streams)) and move_id == facts.state.move_id
        for shelf, origin, move_id in facts.entries
    )


def _has_letter(facts: Facts) -> bool:
    """Whether an operator can move it on. An entry that killed its consumers is buried without a change of status."""
    return any(shelf == "dead" and move_id == facts.state.move_id for shelf, _, move_id in facts.entries)


def _of_state(facts: Facts) -> Iterator[Finding]:
    state, row = facts.state, facts.row

    def found(code: Code, detail: str, remedy: Remedy = "") -> Finding:
        return Finding(code, detail, state.cid, row.level if row else "", row.filename if row else "", remedy)

    if state.status in _NEEDED:
        if not _has_entry(facts) and not _has_letter(facts):
            code, streams = _NEEDED[state.status]
            lacking = f"status {state.status}, but no entry of move {state.move_id or '?'} in {'/'.join(streams)}"
            yield found(code, f"{lacking}: nobody will move it on", "make idle")
        return
    if facts.up_for_review:
        return
    if row is None:
        if state.status == "idle":
            yield found(Code.STATE_WITHOUT_ROW, "Redis holds its state, MySQL does not track it", "review")
    elif state.status == "idle" and state.level != row.level:
        yield found(Code.LEVEL_DIFFERS, f"Redis says {state.level}, and no review is due", "review")
    elif _needs_review(state):
        yield found(Code.REVIEW_LOST, f"count {state.count} asks for a review, and none is due", "review")


def _needs_review(state: ContentState) -> bool:
    if state.status == "":
        return state.at > 0  # counted, and nobody has looked at it since
    if state.status == "idle":
        # Without a band it rests after a dropped dead letter: the next view asks for a review. Away, it would not.
        within = state.lo is None or state.hi is None or state.lo <= state.count < state.hi
        return state.away or not within
    return state.status == "unknown"


def _of_files(facts: Facts) -> Iterator[Finding]:
    row = facts.row
    if row is None or row.level in facts.out_of_sight:
        return
    named = facts.sights.get(row.level)
    others = [level for level, sight in facts.sights.items() if level != row.level and sight.kind == "file"]
    for level, sight in facts.sights.items():
        if sight.kind == "unreadable":
            yield Finding(Code.UNREADABLE, sight.detail, row.cid, level, row.filename)
    if named is not None and named.kind == "unreadable":
        return
    if named is None or named.kind != "file":
        what = "nothing stands there" if named is None else "no regular file stands there"
        if others:
            detail = f"MySQL says {row.level}, where {what}"
            yield Finding(Code.WRONG_LEVEL, detail, row.cid, ", ".join(others), row.filename)
        else:
            unseen = f" (could not look on {', '.join(sorted(facts.out_of_sight))})" if facts.out_of_sight else ""
            yield Finding(Code.FILE_MISSING, f"{what}, nor on another level{unseen}", row.cid, row.level, row.filename)
        return
    if row.bytes is not None and named.size != row.bytes:
        detail = f"{named.size} bytes, had {row.bytes} when it was relocated last"
        yield Finding(Code.SIZE_CHANGED, detail, row.cid, row.level, row.filename)
    if not is_moving_on(facts):
        for level in others:
            yield _second_copy(facts, row, level)


def _second_copy(facts: Facts, row: Tracked, level: str) -> Finding:
    same = facts.sameness.get(level, "not compared")
    failed = facts.state.status in _NEEDED and _has_letter(facts)
    waits = ", and a dead letter waits: retry or drop it" if failed else ""
    remedy: Remedy = "remove second copy" if same in _REMOVABLE and not failed else ""
    detail = f"MySQL says {row.level}; this second copy: {same}{waits}"
    return Finding(Code.TWO_LEVELS, detail, row.cid, level, row.filename, remedy)
