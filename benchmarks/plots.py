"""Bars as SVG: ours and what stands beside it, row by row. Readable on light and on dark pages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.report import Line, figure

_WIDTH = 860
_LABELS = 330
_FIGURES = 190
_BAR = 14
_ROW = 52
_TOP = 34
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.ours { fill: #0969da } .beside { fill: #a8b1bb } .spread { stroke: #1f2328; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 }
  .ours { fill: #4493f8 } .beside { fill: #59636e } .spread { stroke: #e6edf3 }
}"""


def bars(title: str, lines: Sequence[Line]) -> str:
    """A pair of bars a row, each pair to a scale of its own, as units differ; thin lines span the rounds' figures."""
    height = _TOP + _ROW * len(lines) + 8
    parts = [f'<text x="8" y="20" font-weight="600">{escape(title)}</text>']
    for number, each in enumerate(lines):
        parts += _pair(each, _TOP + number * _ROW)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n<style>{_STYLE}\n</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


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
