"""View reports as an audience makes them: a few contents get most of them. Pure, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random


@dataclass(frozen=True, slots=True)
class Report:
    """One report of `views` views."""

    cid: str
    views: int


def zipf_reports(cids: Sequence[str], reports: int, mean_views: int, seed: int) -> list[Report]:
    """`reports` of 1 to `2 * mean_views - 1` views each; the content of rank r gets a share in proportion to 1/r."""
    random = Random(seed)  # noqa: S311  # a sample, no secret
    ranked = random.sample(cids, len(cids))
    shares = list(accumulate(1 / rank for rank in range(1, len(cids) + 1)))
    chosen = random.choices(ranked, cum_weights=shares, k=reports)
    return [Report(cid, random.randint(1, 2 * mean_views - 1)) for cid in chosen]


def mean_views_for(contents: int, reports: int, wanted: int) -> int:
    """How many views a report has on average, for about a fifth of the contents to get `wanted` views or more."""
    rank = max(1, contents // 5)
    everybody = sum(1 / r for r in range(1, contents + 1))
    return max(1, round(wanted * rank * everybody / reports))
