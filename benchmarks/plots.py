"""Plots as SVG: ours and what stands beside it as bars, growth as curves. Readable on light and on dark pages. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.measure import FLAT
from benchmarks.report import Line, Point, figure

_WIDTH = 860
_LABELS = 330
_FIGURES = 190
_BAR = 14
_ROW = 52
_TOP = 34
_CURVE = 210
_LEFT, _RIGHT = 90, 60
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.ours { fill: #0969da } .beside { fill: #a8b1bb } .spread { stroke: #1f2328; stroke-width: 1 }
.curve { stroke: #0969da; stroke-width: 2; fill: none } .band { fill: #0969da; opacity: 0.15 }
.axis { stroke: #a8b1bb } .bound { stroke: #cf222e; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 }
  .ours { fill: #4493f8 } .beside { fill: #59636e } .spread { stroke: #e6edf3 }
  .curve { stroke: #4493f8 } .band { fill: #4493f8 } .axis { stroke: #59636e } .bound { stroke: #f85149 }
}"""


def plot(title: str, lines: Sequence[Line]) -> str:
    """Of an area: curves where its rows are about growth, else bars."""
    return curves(title, lines) if all(each.points for each in lines) else bars(title, lines)


def bars(title: str, lines: Sequence[Line]) -> str:
    """A pair of bars a row, each pair to a scale of its own, as units differ; thin lines span the rounds' figures."""
    parts = [part for number, each in enumerate(lines) for part in _pair(each, _TOP + number * _ROW)]
    return _picture(title, _TOP + _ROW * len(lines) + 8, parts)


def curves(title: str, lines: Sequence[Line]) -> str:
    """What each size costs, a curve a row, from 0 on; the band spans the rounds, dashes stand where flat ends.

    Sizes are spaced by their ratio: from 10,000 to 100,000 is as far as to 1,000,000 from there.
    """
    parts = [part for number, each in enumerate(lines) for part in _curve(each, _TOP + number * _CURVE)]
    return _picture(title, _TOP + _CURVE * len(lines) + 8, parts)


def _picture(title: str, height: int, parts: Sequence[str]) -> str:
    body = "\n".join([f'<text x="8" y="20" font-weight="600">{escape(title)}</text>', *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n<style>{_STYLE}\n</style>\n{body}\n</svg>\n'
    )


def _curve(each: Line, top: int) -> list[str]:
    bottom, first = top + _CURVE - 50, each.points[0]
    flat = first.median * FLAT
    most = 1.1 * max(flat, *(point.spread[1] for point in each.points)) or 1
    steps = math.log(each.points[-1].size / first.size) or 1

    def x(point: Point) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(point.size / first.size) / steps

    def y(value: float) -> float:
        return bottom - (bottom - top - 24) * value / most

    upper = [f"{x(point):.1f},{y(point.spread[1]):.1f}" for point in each.points]
    lower = [f"{x(point):.1f},{y(point.spread[0]):.1f}" for point in reversed(each.points)]
    medians = [f"{x(point):.1f},{y(point.median):.1f}" for point in each.points]
    what = each.name.rpartition(", ")[0]
    parts = [
        _text(8, top + 14, f"{what}, by {each.of}: {each.unit}"),
        f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>',
        f'<path class="bound" d="M{_LEFT} {y(flat):.1f}H{_WIDTH - _RIGHT}"/>',
        _text(8, round(y(flat)) + 4, f"{FLAT} × {figure(first.median)}", "small"),
        f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>',
        f'<polyline class="curve" points="{" ".join(medians)}"/>',
    ]
    for point in each.points:
        parts.append(f'<circle class="ours" cx="{x(point):.1f}" cy="{y(point.median):.1f}" r="4"/>')
        parts.append(_text(round(x(point)) - 12, round(y(point.spread[0])) + 18, figure(point.median), "small"))
        parts.append(_text(round(x(point)) - 12, bottom + 16, f"{point.size:,}", "small"))
    return parts


def _pair(each: Line, top: int) -> list[str]:
    ends = [each.ours, *each.ours_spread]
    if each.beside is not None:
        ends += [each.beside, *(each.beside_spread or ())]
    most = max(ends) or 1
    parts = [_text(8, top + 16, each.name)]
    parts += _bar("ours", top + 4, each.ours, each.ours_spread, most, text=f"{figure(each.ours)} {each.unit}")
    if each.beside is not None:
        parts.append(_text(8, top + 33, f"beside it: {each.beside_name}", "small"))
        parts += _bar("beside", top + 22, each.beside, each.beside_spread or (), most, text=figure(each.beside))
    return parts


def _bar(kind: str, top: int, value: float, spread: Sequence[float], most: float, *, text: str) -> list[str]:
    room = _WIDTH - _LABELS - _FIGURES
    parts = [f'<rect class="{kind}" x="{_LABELS}" y="{top}" width="{room * value / most:.1f}" height="{_BAR}" rx="2"/>']
    if spread and spread[0] != spread[1]:
        least, greatest = (_LABELS + room * end / most for end in spread)
        middle = top + _BAR / 2
        parts.append(f'<path class="spread" d="M{least:.1f} {middle}H{greatest:.1f}"/>')
    end = _LABELS + room * max(value, *spread) / most if spread else _LABELS + room * value / most
    return [*parts, _text(round(end) + 6, top + 11, text, "small")]


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    shown = text if len(text) <= 52 else text[:51] + "…"
    return f'<text x="{x}" y="{y}"{f" class={kind!r}" if kind else ""}>{escape(shown)}</text>'
