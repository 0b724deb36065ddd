"""MySQL's catalog and the disk as plain dictionaries: what the state machine's services see besides Redis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise

from shared.catalog.commits import Verdict, judge
from shared.levels import Level
from shared.messages import Placed, Tally
from tests.samples import SAMPLE_LEVELS

File = tuple[str, str]
"""(level, filename)"""
PATHS = {level.content_level: level.path for level in SAMPLE_LEVELS}


def filename_of(cid: str) -> str:
    return f"{cid}.mp4"


@dataclass
class ModelWorld:
    """One file per content; a level change is written down as the trigger does it."""

    rows: dict[str, str]
    files: dict[File, str] = field(default_factory=dict)
    locks: dict[File, object] = field(default_factory=dict)
    relocations: dict[str, Placed] = field(default_factory=dict)
    tokens: dict[tuple[str, str], int] = field(default_factory=dict)
    """(stream, move_id): the latest attempt that was handed out."""
    clock: Iterator[int] = field(default_factory=count)
    """For an order that does not hang on milliseconds."""
    changes: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.files = {(level, filename_of(cid)): cid for cid, level in self.rows.items()}

    def level(self, cid: str) -> Level | None:
        return SAMPLE_LEVELS.get(self.rows[cid]) if cid in self.rows else None

    def last_count(self, cid: str) -> int | None:
        return next((p.count for p in reversed(self.relocations.values()) if p.cid == cid), None)

    def change_level(self, cid: str, level: str) -> None:
        self.changes[cid].append((self.rows[cid], level))
        self.rows[cid] = level

    def change_by_hand(self, cid: str, level: str) -> None:
        """An operator puts a copy there first, and leaves the old one. A file that stood there is another one now."""
        if self.rows[cid] != level:
            self.files[level, filename_of(cid)] = cid
            self.locks.pop((level, filename_of(cid)), None)
            self.change_level(cid, level)

    def commit(self, placed: Placed) -> Verdict:
        """The recorder's transaction, judged by the recorder's own rule."""
        row = (self.rows[placed.cid], filename_of(placed.cid)) if placed.cid in self.rows else None
        verdict = "committed" if placed.move_id in self.relocations else judge(placed, row, PATHS)
        if verdict == "commit":
            self.change_level(placed.cid, placed.to_level)
        if verdict in {"commit", "record"}:
            assert placed.move_id not in self.relocations, f"G5: {placed.move_id} is recorded twice"
            self.relocations[placed.move_id] = placed
        return verdict

    def check(self) -> None:
        """G3 and G4: the copy that the catalog names is there. G5: each content's history is one unbroken chain."""
        for cid, level in self.rows.items():
            assert self.files.get((level, filename_of(cid))) == cid, f"G4: {cid} is not on {level}"
            chain = self.changes[cid]
            for (_, left), (right, _) in pairwise(chain):
                assert left == right, f"G5: {cid}'s history jumps from {left} to {right}"
            assert not chain or chain[-1][1] == level, f"G5: {cid} is on {level}, its history ends on {chain[-1][1]}"


def counted(tallies: list[Tally], cid: str, start: int) -> int:
    """The count after these views, in their order."""
    total = start
    for tally in tallies:
        total = tally.set.get(cid, total) + tally.add.get(cid, 0)
    return total
