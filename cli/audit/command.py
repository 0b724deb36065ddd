"""`reshelve audit`: what it says, and what it exits with."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from cli.audit.auditing import Audit, Looked, Pace
from cli.audit.findings import Code, Finding, most_affected
from cli.audit.repairing import Repairing
from cli.running import explained
from cli.session import Session, opened
from cli.terminal import amount
from shared.errors import ReshelveError

_CLEAN, _FINDINGS, _COULD_NOT_RUN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do. `rate` is files a second; without `repair`, or with `dry_run`, nothing at all is changed."""

    repair: bool
    dry_run: bool
    max_share: float
    rate: float
    min_age_s: float
    as_json: bool


@dataclass
class _Tally:
    """`remedies` are kept until it is known how many there are, and no longer than a repair is possible."""

    codes: Counter[Code] = field(default_factory=Counter)
    affected: set[str] = field(default_factory=set)
    remedies: list[Finding] = field(default_factory=list)
    left: int = 0

    def add(self, finding: Finding, most: int) -> None:
        self.codes[finding.code] += 1
        if finding.severity == "error" and len(self.affected) <= most:
            self.affected.add(finding.subject)
        if not finding.remedy:
            self.left += 1
        elif len(self.affected) <= most:
            self.remedies.append(finding)


async def audit(wanted: Wanted, data_dir: Path) -> int:
    """0 nothing is wrong, or all of it was mended; 1 findings are left; 2 it could not run, or refused to repair."""
    try:
        async with opened(data_dir) as session:
            return await _audit(wanted, session)
    except (ReshelveError, RedisError) as error:
        print(f"reshelve: {explained(error)}", file=sys.stderr)
        return _COULD_NOT_RUN


async def _audit(wanted: Wanted, session: Session) -> int:
    contents = sum((await session.catalog.count_by_level()).values())
    most = most_affected(contents, wanted.max_share)
    tally = _Tally()
    err = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), console=err, transient=True,
        disable=not err.is_terminal,
    ) as progress:  # fmt: skip
        of_contents, of_files = progress.add_task("contents", total=contents), progress.add_task("files", total=None)

        def tell(looked: Looked) -> None:
            progress.update(of_contents, completed=looked.contents)
            progress.update(of_files, completed=looked.files)

        auditing = Audit(session, Pace(wanted.rate), wanted.min_age_s, tell)
        async for finding in auditing.findings():
            tally.add(finding, most)
            _say(wanted, finding.line(), finding.record())
    looked, found = auditing.looked, sum(tally.codes.values())
    figures = {
        "contents": looked.contents,
        "files": looked.files,
        "findings": found,
        "codes": {str(code): times for code, times in tally.codes.items()},
    }
    code = await _repair(wanted, Repairing(session, auditing, wanted.min_age_s), tally, most)
    codes = ", ".join(f"{code} {times}" for code, times in sorted(tally.codes.items()))
    summary = f"looked at {amount(looked.contents, 'content')} and {amount(looked.files, 'file')}: "
    _say(wanted, summary + (f"{amount(found, 'finding')} ({codes})" if found else "all is well"), _summary(figures))
    return code


def _summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "summary", **figures}


async def _repair(wanted: Wanted, repairing: Repairing, tally: _Tally, most: int) -> int:
    found = sum(tally.codes.values())
    if not wanted.repair:
        return _FINDINGS if found else _CLEAN
    if tally.codes.keys() & {Code.LEVELS_UNSOUND, Code.LEVEL_MISSING}:
        print("reshelve: nothing was mended: see to the levels first", file=sys.stderr)
        return _COULD_NOT_RUN
    if len(tally.affected) > most:
        print(
            f"reshelve: more than {most} are affected, which is more than --max-share {wanted.max_share:g} allows: "
            "nothing was mended; look for one cause, such as a level that is not mounted, or raise --max-share",
            file=sys.stderr,
        )
        return _COULD_NOT_RUN
    if wanted.dry_run:
        for finding in tally.remedies:
            record = {**finding.record(), "kind": "would repair"}
            _say(wanted, f"would {finding.remedy}: {finding.line()}", record)
        return _FINDINGS if found else _CLEAN
    left = tally.left
    async for repair in repairing.repair(tally.remedies):
        left += bool(repair.why_not)
        _say(wanted, repair.line(), repair.record())
    return _FINDINGS if left else _CLEAN


def _say(wanted: Wanted, line: str, record: Mapping[str, Any]) -> None:
    if wanted.as_json:
        line = orjson.dumps(record).decode()
    # Line by line, for whoever follows in a pipe.
    print(line, flush=True)
