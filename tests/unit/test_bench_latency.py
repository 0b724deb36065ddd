"""Percentiles of the benchmarks: figures that were measured, never one in between."""

from __future__ import annotations

import pytest

from benchmarks.latency import Seen, percentile, stage_figures


@pytest.mark.parametrize(("percent", "figure"), [(50, 100), (99, 198), (100, 200), (0.1, 1)])
def test_percentile_is_the_least_figure_that_so_many_do_not_exceed(percent: float, figure: int) -> None:
    assert percentile(list(range(200, 0, -1)), percent) == figure


def test_percentile_of_one_figure_is_that_figure() -> None:
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def test_stages_add_up_to_the_whole_way() -> None:
    seen = Seen(posted=100, answered=104, planned=110, placed=117, committing=118, committed=122)
    assert seen.ms == 22
    stages = seen.stages
    assert sum(took for stage, took in stages.items() if stage != "until the answer") == seen.ms
    assert stage_figures([seen])["planned to placed, p99"] == 7
