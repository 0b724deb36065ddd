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

    def met(self, ours: float, ratio: float | None) -> bool:
        """A ratio that there is not meets nothing."""
        figure = ours if self.of == "ours" else ratio
        if figure is None:
            return False
        return figure >= self.value if self.sense == ">=" else figure <= self.value


@dataclass(frozen=True)
class Row:
    """`details` are figures that were taken on the way, by name; they may still come in while the row is measured."""

    name: str
    unit: str
    ours: Figure
    beside: Beside | None
    bounds: Sequence[Bound]
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The figures of all rounds, in their order."""

    row: Row
    ours: Sequence[float]
    beside: Sequence[float]

    @property
    def ratio(self) -> float | None:
        """Of the medians; None where nothing stands beside it."""
        return statistics.median(self.ours) / statistics.median(self.beside) if self.beside else None

    @property
    def met(self) -> bool:
        return all(bound.met(statistics.median(self.ours), self.ratio) for bound in self.row.bounds)


def measured(row: Row, rounds: int) -> Result:
    """By turns, so that what slows the machine down slows both."""
    ours, beside = [], []
    for _ in range(rounds):
        ours.append(row.ours())
        if row.beside is not None:
            beside.append(row.beside.figure())
    return Result(row, ours, beside)
