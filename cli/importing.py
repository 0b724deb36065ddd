"""`reshelve import DIR`: track files that lie on a level already."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from cli.session import Session, opened
from cli.terminal import amount, console, shown
from cli.walk import CidFrom, Found, walk
from shared.errors import InvalidError
from shared.levels import Level, Levels

_LISTED = 20

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Import:
    """What to import; with `dry_run` nothing is written."""

    directory: Path
    level: str | None
    cid_from: CidFrom
    dry_run: bool
    batch: int


@dataclass(slots=True)
class Outcome:
    """How many files were registered, and how many had been before."""

    registered: int = 0
    there: int = 0


async def import_files(wanted: Import, data_dir: Path) -> int:
    """Register what is new; 1 where files were left out. Safe to break off and to run again."""
    out = console()
    async with opened(data_dir) as session:
        levels = await session.catalog.levels()
        directory = _directory(wanted.directory)
        level = level_of(directory, levels, wanted.level)
        out.print(f"reading {shown(str(directory))}, which is on {level.content_level}")
        with _progress(out) as progress:
            task = progress.add_task("reading", total=None)
            found = await asyncio.to_thread(
                walk, level.path, directory, wanted.cid_from, lambda n: progress.update(task, completed=n)
            )
            progress.remove_task(task)
            outcome = await _register(session, found, level, wanted, progress)
    _report(out, found, outcome, level, dry_run=wanted.dry_run)
    return 1 if found.refused else 0


def level_of(directory: Path, levels: Levels, name: str | None) -> Level:
    """The level that `directory`, a resolved path, lies on. Raises InvalidError where it is none, or not `name`."""
    places = ", ".join(f"{level.content_level} in {level.path}" for level in levels)
    if name is not None and levels.get(name) is None:
        raise InvalidError(f"there is no level {name}: the levels are {places}")
    for level in levels:
        if directory.is_relative_to(Path(level.path).resolve()):
            if name not in {None, level.content_level}:
                raise InvalidError(f"{directory} lies on {level.content_level}, not on {name}: leave out --level")
            return level
    raise InvalidError(f"{directory} lies on no level: import the directory of a level or one below it: {places}")


def _directory(given: Path) -> Path:
    try:
        resolved = given.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InvalidError(f"{given} cannot be read: {getattr(error, 'strerror', error)}: name a directory") from None
    if not resolved.is_dir():
        raise InvalidError(f"{given} is no directory: name the directory of a level or one below it")
    return resolved


def _progress(out: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


async def _register(session: Session, found: Found, level: Level, wanted: Import, progress: Progress) -> Outcome:
    outcome = Outcome()
    # In the order of the primary key: MySQL appends instead of splitting pages, and two imports cannot deadlock.
    found.contents.sort()
    task = progress.add_task("looking up" if wanted.dry_run else "registering", total=len(found.contents))
    for start in range(0, len(found.contents), wanted.batch):
        pairs = found.contents[start : start + wanted.batch]
        new = await _new(session, pairs, level, found, outcome)
        if new and not wanted.dry_run:
            taken = set(await session.registry.register_many(new, level.content_level))
            found.refused += [(name, f"{name!r} is tracked already, or cid {cid!r} is") for cid, name in taken]
            new = [pair for pair in new if pair not in taken]
            # Views that came before the content was known are counted: now they can be acted on.
            await session.contents.touch([cid for cid, _ in new])
        outcome.registered += len(new)
        progress.advance(task, len(pairs))
    return outcome


async def _new(session: Session, pairs: Sequence[Pair], level: Level, found: Found, outcome: Outcome) -> list[Pair]:
    """The pairs whose cid is not tracked; what contradicts the catalog is refused."""
    rows = await session.catalog.rows([cid for cid, _ in pairs])
    new = []
    for cid, filename in pairs:
        row = rows.get(cid)
        if row is None:
            new.append((cid, filename))
        elif (row.filename, row.level) == (filename, level.content_level):
            outcome.there += 1
        else:
            where = f"{shown(row.filename)} on {row.level}"
            found.refused.append((filename, f"cid {cid!r} is tracked already: {where}"))
    return new


def _report(out: Console, found: Found, outcome: Outcome, level: Level, *, dry_run: bool) -> None:
    for filename, reason in found.refused[:_LISTED]:
        out.print(f"  left out {shown(filename)}: {reason}", soft_wrap=True)
    if len(found.refused) > _LISTED:
        out.print(f"  … and {len(found.refused) - _LISTED:,} more")
    if found.skipped:
        kinds = ", ".join(amount(count, kind) for kind, count in sorted(found.skipped.items()))
        out.print(f"  skipped {kinds}")
    registered = f"{'would register' if dry_run else 'registered'} {amount(outcome.registered, 'file')}"
    out.print(
        f"{registered} on {level.content_level}; {outcome.there:,} tracked before, {len(found.refused):,} left out"
    )
