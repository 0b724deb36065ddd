"""The demo's proof: what MySQL says, what lies on disk and what the history tells, compared from outside."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.samples import Sample, digest_of
from cli.session import Session
from cli.terminal import amount
from shared.catalog.catalog import LevelChange, Relocation
from shared.levels import Levels
from shared.names import LEVEL_MARKER

_AT_ONCE = 4
_HISTORY_MAX = 1000


@dataclass(slots=True)
class Verdict:
    """`settled`: contents that are on the level for their count, with nothing wrong about them."""

    contents: int = 0
    settled: int = 0
    promotions: int = 0
    demotions: int = 0
    moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead_letters: int = 0
    faults: list[str] = field(default_factory=list)

    def journeys(self) -> str:
        """How many went from where to where."""
        return ", ".join(f"{source} → {target} {times}" for (source, target), times in self.moved.most_common())

    def summary(self) -> str:
        """One line of figures."""
        return (
            f"{self.promotions + self.demotions} relocations ({self.promotions} promotions, {self.demotions} "
            f"demotions), {self.settled} of {self.contents} contents on the level for their count, "
            f"{amount(self.dead_letters, 'dead letter')}"
        )


async def verify(session: Session, samples: Sequence[Sample], counts: Mapping[str, int]) -> Verdict:
    """Hold every content against `counts`, the counts that the producer knows that it reported."""
    verdict = Verdict(contents=len(samples), dead_letters=(await session.contents.waiting())["dead"])
    if verdict.dead_letters:
        verdict.faults.append(f"{amount(verdict.dead_letters, 'dead letter')}: look with `reshelve explain`")
    levels = await session.catalog.levels()
    cids = [sample.cid for sample in samples]
    rows = await session.catalog.rows(cids)
    states = {state.cid: state for state in await session.contents.read(cids)}
    on_disk = await asyncio.to_thread(files_on, levels)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def check(sample: Sample) -> None:
        cid = sample.cid
        row, wanted = rows.get(cid), levels.level_for(counts[cid])
        faults = []
        if states[cid].count != counts[cid]:
            faults.append(f"counted {states[cid].count} views instead of {counts[cid]}")
        if row is None or row.level != wanted.content_level:
            faults.append(f"MySQL has it on {row.level if row else 'no level'}, its count asks for {wanted}")
        if on_disk.get(sample.filename, []) != [wanted.content_level]:
            faults.append(f"its file is on {on_disk.get(sample.filename, [])}, not on {wanted.content_level} alone")
        elif await asyncio.to_thread(_digest, Path(wanted.path) / sample.filename) != sample.digest:
            faults.append("its file has other bytes than before")
        async with turns:
            relocations = await session.catalog.relocations(cid, _HISTORY_MAX)
            changes = await session.catalog.level_changes(cid, _HISTORY_MAX)
        faults += history_faults(relocations, changes, levels.default.content_level, wanted.content_level)
        _add(verdict, relocations, levels)
        verdict.settled += not faults
        verdict.faults += [f"{cid}: {fault}" for fault in faults]

    await asyncio.gather(*(check(sample) for sample in samples))
    return verdict


def history_faults(
    relocations: Sequence[Relocation], changes: Sequence[LevelChange], first: str, last: str
) -> list[str]:
    """What is wrong with a content's history, newest first, that must lead from `first` to `last`. Pure."""
    faults = []
    moved = [(one.from_level, one.to_level) for one in relocations]
    changed = [(one.old_content_level, one.new_content_level) for one in changes]
    if moved != changed:
        faults.append(f"relocations has {moved}, update_history has {changed}")
    ends = [first, *(to_level for _, to_level in reversed(moved))]
    starts = [*(from_level for from_level, _ in reversed(moved)), last]
    if ends != starts:
        faults.append(f"its relocations {moved} do not lead from {first} to {last}")
    return faults


def files_on(levels: Levels) -> dict[str, list[str]]:
    """Each file that lies below a level's path, movers' unfinished copies too, with the levels that it lies on.

    The level's own marker is none of them.
    """
    places: dict[str, list[str]] = {}
    for level in levels:
        for directory, _, names in os.walk(level.path):
            for name in names:
                filename = f"{directory}/{name}".removeprefix(f"{level.path}/")
                if filename == LEVEL_MARKER:
                    continue
                places.setdefault(filename, []).append(level.content_level)
    return places


def _digest(path: Path) -> str:
    try:
        return digest_of(path.read_bytes())
    except OSError as error:
        return str(error)


def _add(verdict: Verdict, relocations: Sequence[Relocation], levels: Levels) -> None:
    order = [level.content_level for level in levels]
    for one in relocations:
        verdict.moved[one.from_level, one.to_level] += 1
        if order.index(one.to_level) > order.index(one.from_level):
            verdict.promotions += 1
        else:
            verdict.demotions += 1
