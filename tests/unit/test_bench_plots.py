"""The pictures are whole XML, and their curves rise where the figures do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from benchmarks import plots, report
from benchmarks.measure import Row, growing, measured

SVG = "{http://www.w3.org/2000/svg}"


def grown(figures: Sequence[float], sizes: Sequence[int] = (1, 8, 64)) -> report.Line:
    costs = dict(zip(sizes, figures, strict=True))
    return report.line("Growth", measured(growing("a <view>", "µs", "movers", sizes, costs.__getitem__), 2), 1.0)


def curve(picture: str) -> list[tuple[float, float]]:
    (line,) = ET.fromstring(picture).iter(f"{SVG}polyline")
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def test_a_curve_has_a_point_a_size_spaced_by_their_ratio() -> None:
    (x0, y0), (x1, y1), (x2, y2) = curve(plots.plot("Growth", [grown([1, 2, 4])]))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 > y1 > y2
    assert y1 - y2 == pytest.approx(2 * (y0 - y1), abs=0.3)


def test_what_is_flat_stays_below_the_dashes() -> None:
    picture = plots.plot("Growth", [grown([10, 10, 11])])
    (bound,) = (path for path in ET.fromstring(picture).iter(f"{SVG}path") if path.get("class") == "bound")
    dashes = float(bound.attrib["d"].split()[1].split("H")[0])
    assert all(y > dashes for _, y in curve(picture))


def test_figures_of_nothing_at_all_can_be_drawn() -> None:
    assert all(before[0] < after[0] for before, after in pairwise(curve(plots.plot("Growth", [grown([0, 0, 0])]))))


def test_other_rows_are_bars() -> None:
    line = report.line("A", measured(Row("a & b", "s", lambda: 1.0, None, ()), 1), 1.0)
    picture = ET.fromstring(plots.plot("A", [line]))
    assert len(list(picture.iter(f"{SVG}rect"))) == 1
