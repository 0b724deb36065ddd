"""`python -m benchmarks`: measures the rows of docs/performance.md and writes them down. Called by `make bench`."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, plots, report
from benchmarks.measure import Row, measured

Rows = Callable[[Path, float], Iterator[Row]]
"""Servers and files beneath the path run and stand until the next row is asked for, or the rows end."""

AREAS: Mapping[str, str] = {
    "ingest": "Ingest",
    "planner": "Planner",
    "recorder": "Recorder",
    "relocations": "Relocations",
    "movers": "Movers",
    "latency": "View to commit",
    "memory": "Memory",
    "start": "Start",
    "views_growth": "Growth: views",
    "growth": "Growth: relocations",
}
"""Modules of benchmarks.rows, in the order of the page, and the headings of their tables."""

_DOCS = Path(__file__).resolve().parent.parent / "docs"
_PAGE = _DOCS / "performance.md"
_JSON = _DOCS / "performance.json"
_PLOTS = _DOCS / "performance"


@dataclass(frozen=True)
class Wanted:
    """Which rows, and how thoroughly: `only` holds areas, or parts of rows' names."""

    only: Sequence[str]
    rounds: int
    scale: float

    def areas(self, known: Sequence[report.Line]) -> list[str]:
        """Those that are named, and those of the known rows that are: to stage an area for nothing may take minutes.

        Where no known row has a word, any area may have a new one with it.
        """
        words = [word for word in self.only if word not in AREAS]
        having = [{line.area for line in known if word in line.name} for word in words]
        if not self.only or not all(having):
            return list(AREAS)
        headings = set().union(*having)
        return [area for area, heading in AREAS.items() if area in self.only or heading in headings]

    def whole(self, area: str) -> bool:
        """All its rows."""
        return not self.only or area in self.only

    def row(self, area: str, name: str) -> bool:
        return not self.only or area in self.only or any(word in name for word in self.only if word not in AREAS)


def main() -> int:
    """1 where something broke; a bound that is not met is a result like any other."""
    # As an exception: file systems that rows have mounted and servers that they have started end with their blocks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures what docs/performance.md shows."
    )
    parser.add_argument("--only", default="", help=f"areas ({', '.join(AREAS)}), or parts of rows' names; by commas")
    parser.add_argument("--rounds", type=int, default=3, help="how often ours and what stands beside it take turns")
    parser.add_argument("--scale", type=float, default=1.0, help="0.05: a twentieth of everything, to see it work")
    parser.add_argument("--check", action="store_true", help="print alone, write nothing")
    asked = parser.parse_args()
    wanted = Wanted([word.strip() for word in asked.only.split(",") if word.strip()], asked.rounds, asked.scale)
    known = report.from_json(_JSON.read_bytes()) if _JSON.exists() else []
    lines: list[report.Line] = []
    # Not on a tmpfs: what is durable there costs nothing.
    with tempfile.TemporaryDirectory(prefix="reshelve-bench-", dir=_disk(), ignore_cleanup_errors=True) as work:
        facts = machine.facts(Path(work))
        broken = [area for area in wanted.areas(known) if not _measure(area, wanted, Path(work), lines)]
    if lines and not asked.check:
        whole = [AREAS[area] for area in AREAS if wanted.whole(area) and area not in broken]
        _write(report.merged(known, lines, list(AREAS.values()), whole), facts)
    for area in broken:
        print(f"{area}: broke, see above", file=sys.stderr)
    return 1 if broken else 0


def _measure(area: str, wanted: Wanted, work: Path, lines: list[report.Line]) -> bool:
    """Adds the area's lines; False where it broke, which leaves the other areas as they are."""
    rows: Rows = importlib.import_module(f"benchmarks.rows.{area}").rows
    directory = work / area
    directory.mkdir()
    began = time.monotonic()
    try:
        # Closed, so that its servers end here, whatever happens.
        with closing(rows(directory, wanted.scale)) as those:  # type: ignore[type-var]  # they are generators
            for row in those:
                if wanted.row(area, row.name):
                    lines.append(report.line(AREAS[area], measured(row, wanted.rounds), wanted.scale))
                    print(report.spoken(lines[-1]), flush=True)
    except Exception:  # noqa: BLE001  # one area that breaks must not cost the figures of the others
        traceback.print_exc()
        return False
    print(f"({area}: {time.monotonic() - began:.0f} s)", flush=True)
    return True


def _write(lines: Sequence[report.Line], facts: Mapping[str, str]) -> None:
    _JSON.write_bytes(report.to_json(lines))
    _PLOTS.mkdir(exist_ok=True)
    pictures = []
    for area, heading in AREAS.items():
        of_area = [each for each in lines if each.area == heading]
        if of_area:
            (_PLOTS / f"{area}.svg").write_text(plots.plot(heading, of_area))
            pictures.append(f"![{heading}](performance/{area}.svg)")
    page = _PAGE.read_text()
    page = report.between(page, "machine", report.facts_table(facts))
    page = report.between(page, "tables", report.tables(lines))
    _PAGE.write_text(report.between(page, "plots", "\n\n".join(pictures)))


def _disk() -> Path:
    """Where the benchmarks keep their files meanwhile."""
    chosen = _DOCS.parent / ".bench"
    chosen.mkdir(exist_ok=True)
    return chosen


if __name__ == "__main__":
    sys.exit(main())
