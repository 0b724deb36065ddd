"""What a row is, and how it is measured: rounds of ours and of what stands beside it by turns, and their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Figure = Callable[[], float]
"""One round."""


@dataclass(frozen=True)
class Beside:
    """The limit, or the rival, of the same machine in the same run."""

    name: str
    figure: Figure


@dataclass(frozen=True)
class Bound:
    """What must be reached: by the ratio of ours to what stands beside it, or by ours alone."""

    of: Literal["ratio", "ours"]
    sense: Literal[">=", "<="]
    value: float

    def __str__(self) -> str:
        sign = {">=": "≥", "<=": "≤"}[self.sense]
        return f"{sign} {self.value:,g}" + (" ×" if self.of == "ratio" else "")

    def met(self, ours: float, ratio: float | None) -> bool:
        """A ratio that there is not meets nothing."""
        figure = ours if self.of == "ours" else ratio
        if figure is None:
            return False
        return figure >= self.value if self.sense == ">=" else figure <= self.value


@dataclass(frozen=True)
class Row:
    """`details` are figures that were taken on the way, by name; they may still come in while the row is measured.

    `most_rounds` bounds the rounds of a row that takes long. A figure is better the higher it is, unless a bound says
    that it is to stay below something. A row about growth has a `growth`, whose last size is ours and whose first
    stands beside it.
    """

    name: str
    unit: str
    ours: Figure
    beside: Beside | None
    bounds: Sequence[Bound]
    details: Mapping[str, float] = field(default_factory=dict)
    most_rounds: int = 1000
    growth: Growth | None = None


FLAT = 1.2
"""What grows in size may grow so much in cost, and counts as flat."""


@dataclass(frozen=True)
class Growth:
    """What grows, in the plural, and the sizes that are measured between the first and the last."""

    of: str
    first: int
    between: Mapping[int, Figure]
    last: int


def growing(name: str, unit: str, of: str, sizes: Sequence[int], cost: Callable[[int], float]) -> Row:
    """What the last of the sizes (ascending) costs, beside the first; those between are measured as well."""

    def at(size: int) -> Figure:
        return lambda: cost(size)

    first, *between, last = sizes
    return Row(
        name=f"{name}, {last:,} {of}",
        unit=unit,
        ours=at(last),
        beside=Beside(f"{first:,} {of if first > 1 else of.removesuffix('s')}", at(first)),
        bounds=(Bound("ratio", "<=", FLAT),),
        growth=Growth(of, first, {size: at(size) for size in between}, last),
    )


@dataclass(frozen=True)
class Result:
    """The figures of all rounds, in their order; `between` those of the sizes in between."""

    row: Row
    ours: Sequence[float]
    beside: Sequence[float]
    between: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    @property
    def median_beside(self) -> float | None:
        return statistics.median(self.beside) if self.beside else None

    @property
    def ratio(self) -> float | None:
        """Of the medians; None where nothing stands beside it, or that is 0."""
        return self.median / self.median_beside if self.median_beside else None

    @property
    def met(self) -> bool | None:
        """Whether every bound holds; None for a row that has none and only informs."""
        if not self.row.bounds:
            return None
        return all(bound.met(self.median, self.ratio) for bound in self.row.bounds)


_OURS, _BESIDE = -1, -2
"""No sizes."""


def measured(row: Row, rounds: int) -> Result:
    """By turns, so that what slows the machine down slows all."""
    figures = {_OURS: row.ours}
    if row.beside is not None:
        figures[_BESIDE] = row.beside.figure
    if row.growth is not None:
        figures |= row.growth.between
    found: dict[int, list[float]] = {key: [] for key in figures}
    for _ in range(min(rounds, row.most_rounds)):
        for key, figure in figures.items():
            found[key].append(figure())
    return Result(row, found.pop(_OURS), found.pop(_BESIDE, []), found)
