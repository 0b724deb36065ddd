"""Which areas a run goes through: one that is staged for nothing takes minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import AREAS, Wanted


@pytest.fixture(scope="module")
def known() -> Sequence[report.Line]:
    """The rows that are written down."""
    return report.from_json((Path(__file__).parents[2] / "docs/performance.json").read_bytes())


@pytest.mark.parametrize(
    ("only", "areas"),
    [
        ([], list(AREAS)),
        (["planner", "ingest"], ["ingest", "planner"]),
        (["one view per POST"], ["ingest"]),
        (["recorder", "NDJSON of 100"], ["ingest", "recorder"]),
        (["64 partitions"], ["views_growth", "growth"]),
        (["a row that is new"], list(AREAS)),
        (["ingest", "a row that is new"], list(AREAS)),
    ],
)
def test_only_areas_with_a_wanted_row_are_staged(
    known: Sequence[report.Line], only: list[str], areas: list[str]
) -> None:
    assert Wanted(only, 1, 1.0).areas(known) == areas


def test_an_area_gives_all_its_rows_and_a_word_those_that_have_it() -> None:
    wanted = Wanted(["planner", "one view"], 1, 1.0)
    assert wanted.row("planner", "tally, views")
    assert wanted.row("ingest", "ingest, one view per POST")
    assert not wanted.row("ingest", "ingest, NDJSON of 100")
    assert [wanted.whole(area) for area in ("planner", "ingest")] == [True, False]
