"""What was measured, as tables for a reader, as JSON for a program, and as lines while it runs. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from benchmarks.measure import Bound, Result

NOTHING = "—"


@dataclass(frozen=True)
class Point:
    """What a size costs, ascending: the median of the rounds, the least and the greatest."""

    size: int
    median: float
    spread: Sequence[float]


@dataclass(frozen=True)
class Line:
    """One row as it is written down; `spread`s are the least and the greatest of the rounds' figures.

    A row about growth says `of` what, and has all sizes as `points`.
    """

    area: str
    name: str
    unit: str
    ours: float
    ours_spread: Sequence[float]
    beside: float | None
    beside_name: str | None
    beside_spread: Sequence[float] | None
    ratio: float | None
    bound: str
    met: bool | None
    rounds: int
    scale: float
    details: Mapping[str, float]
    of: str = ""
    points: Sequence[Point] = ()


def line(area: str, result: Result, scale: float) -> Line:
    row = result.row
    return Line(
        area=area,
        name=row.name,
        unit=row.unit,
        ours=result.median,
        ours_spread=(min(result.ours), max(result.ours)),
        beside=result.median_beside,
        beside_name=row.beside.name if row.beside else None,
        beside_spread=(min(result.beside), max(result.beside)) if result.beside else None,
        ratio=result.ratio,
        bound=bounds(row.bounds),
        met=result.met,
        rounds=len(result.ours),
        scale=scale,
        details=dict(row.details),
        of=row.growth.of if row.growth else "",
        points=_points(result),
    )


def _points(result: Result) -> list[Point]:
    growth = result.row.growth
    if growth is None:
        return []
    figures = {growth.first: result.beside, **result.between, growth.last: result.ours}
    return [Point(size, statistics.median(found), (min(found), max(found))) for size, found in figures.items()]


def bounds(wanted: Sequence[Bound]) -> str:
    return ", ".join(str(bound) for bound in wanted)


def figure(value: float | None) -> str:
    """Three digits that say something: 28,400; 0.62."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(ends: Sequence[float] | None) -> str:
    return f"{figure(ends[0])}–{figure(ends[1])}" if ends else NOTHING  # a range


def verdict(met: bool | None) -> str:
    return {True: "met", False: "**not met**", None: NOTHING}[met]


def spoken(written: Line) -> str:
    """For the terminal."""
    text = f"{written.name}: {figure(written.ours)} {written.unit} ({spread(written.ours_spread)})"
    if written.beside is not None:
        beside = f"{written.beside_name} {figure(written.beside)} ({spread(written.beside_spread)})"
        text += f"; {beside}; ratio {figure(written.ratio)}"
    if written.bound:
        text += f"; must be {written.bound}: {'met' if written.met else 'NOT MET'}"
    return text


def tables(lines: Sequence[Line]) -> str:
    """A table per area, and beneath it what was found on the way."""
    parts = []
    for area, group in itertools.groupby(lines, key=lambda each: each.area):
        of_area = list(group)
        parts.append(f"### {area}\n\n{_table(of_area)}")
        grown = [each for each in of_area if each.points]
        if grown:
            parts.append(_growth_table(grown))
        parts += [f"{each.name}, on the way: {_details(each.details)}." for each in of_area if each.details]
    return "\n\n".join(parts)


def _table(lines: Sequence[Line]) -> str:
    head = "| what | ours | spread | beside it | its figure | spread | ratio | must be | |"
    return "\n".join([head, "|---|--:|--:|---|--:|--:|--:|--:|---|", *map(_table_row, lines)])


def _table_row(written: Line) -> str:
    cells = (
        written.name + ("" if written.scale == 1 else f" (at {written.scale:g} of its size)"),
        f"{figure(written.ours)} {written.unit}",
        spread(written.ours_spread),
        written.beside_name or NOTHING,
        figure(written.beside),
        spread(written.beside_spread),
        f"{written.ratio:.2f}" if written.ratio is not None else NOTHING,
        written.bound or NOTHING,
        verdict(written.met),
    )
    return f"| {' | '.join(cells)} |"


def _growth_table(lines: Sequence[Line]) -> str:
    """Every size of every row."""
    rows = [
        f"| {each.name.rpartition(', ')[0]} | {point.size:,} {each.of} | {figure(point.median)} {each.unit} "
        f"| {spread(point.spread)} | {point.median / (each.points[0].median or 1):.2f} |"
        for each in lines
        for point in each.points
    ]
    return "\n".join(["| what | size | figure | spread | of the first |", "|---|--:|--:|--:|--:|", *rows])


def _details(details: Mapping[str, float]) -> str:
    return "; ".join(f"{name} {figure(value)}" for name, value in details.items())


def facts_table(facts: Mapping[str, str]) -> str:
    return "\n".join(["| machine | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def between(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers of `name` replaced. Raises ValueError where there are none."""
    start, end = f"<!-- {name}: written by make bench -->", f"<!-- end of {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the page needs one line {start!r} and below it one {end!r}")
    before, _, rest = text.partition(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def merged(
    before: Sequence[Line], now: Sequence[Line], areas: Sequence[str], whole: Collection[str] = ()
) -> list[Line]:
    """A row that was measured now replaces the one of its name, the others stay; in the order of `areas`.

    Of an area that was measured `whole` nothing stays: its rows may have other names by now.
    """
    lines = {each.name: each for each in before if each.area not in whole} | {each.name: each for each in now}
    return sorted(lines.values(), key=lambda each: areas.index(each.area) if each.area in areas else len(areas))


def to_json(lines: Sequence[Line]) -> bytes:
    return orjson.dumps([asdict(each) for each in lines], option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def from_json(text: bytes) -> list[Line]:
    rows: list[dict[str, Any]] = orjson.loads(text)
    return [Line(**{**row, "points": [Point(**point) for point in row.get("points", ())]}) for row in rows]
