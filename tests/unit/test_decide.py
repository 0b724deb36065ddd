from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.planner.decide import Decision, Facts, Open, Rest, Unknown, decide
from shared.levels import COUNT_MAX, UNBOUNDED, Band, Level, Levels
from tests.samples import BRONZE, GOLD, SAMPLE_LEVELS, SILVER

NOW = 1_700_000_000_000


def decided(level: Level | None, count: int, levels: Levels = SAMPLE_LEVELS) -> Decision:
    return decide(Facts("7", level, count), levels, NOW)


@pytest.mark.parametrize(
    ("level", "count", "decision"),
    [
        (BRONZE, 0, Rest(BRONZE, Band(0, 1000), "count 0 belongs on bronze (0-999)")),
        (BRONZE, 999, Rest(BRONZE, Band(0, 1000), "count 999 belongs on bronze (0-999)")),
        (BRONZE, 1000, Open(BRONZE, SILVER, "count 1000 belongs on silver (1000-1999), not bronze (0-999)")),
        (BRONZE, 2000, Open(BRONZE, GOLD, "count 2000 belongs on gold (2000 and more), not bronze (0-999)")),
        (SILVER, 999, Open(SILVER, BRONZE, "count 999 belongs on bronze (0-999), not silver (1000-1999)")),
        (SILVER, 1964, Rest(SILVER, Band(1000, 2000), "count 1964 belongs on silver (1000-1999)")),
        (GOLD, 1999, Open(GOLD, SILVER, "count 1999 belongs on silver (1000-1999), not gold (2000 and more)")),
        (GOLD, 3001, Rest(GOLD, Band(2000, UNBOUNDED), "count 3001 belongs on gold (2000 and more)")),
        (GOLD, 3002, Rest(GOLD, Band(2000, UNBOUNDED), "count 3002 belongs on gold (2000 and more)")),
        (GOLD, COUNT_MAX, Rest(GOLD, Band(2000, UNBOUNDED), f"count {COUNT_MAX} belongs on gold (2000 and more)")),
        (None, 5, Unknown("content 7 is not in the catalog")),
    ],
)
def test_the_count_decides_where_a_content_belongs(level: Level | None, count: int, decision: Decision) -> None:
    assert decided(level, count) == decision


def test_with_one_level_everything_rests_for_ever() -> None:
    only = Level("only", 0, 10, "/only")
    decision = decided(only, COUNT_MAX, Levels([only]))
    assert isinstance(decision, Rest)
    assert decision.band == Band(0, UNBOUNDED)
    assert decision.again_ms is None


@given(st.sampled_from([BRONZE, SILVER, GOLD]), st.integers(0, 4000) | st.integers(0, COUNT_MAX))
def test_a_content_rests_exactly_where_its_count_asks_it_to_be(level: Level, count: int) -> None:
    decision = decided(level, count)
    wanted = SAMPLE_LEVELS.level_for(count)
    if level == wanted:
        assert isinstance(decision, Rest)
        assert decision.level == level
        assert decision.band.lo <= count < decision.band.hi
    else:
        assert isinstance(decision, Open)
        assert (decision.source, decision.target) == (level, wanted)


@given(st.sampled_from([BRONZE, SILVER, GOLD]), st.integers(0, COUNT_MAX))
def test_after_the_relocation_the_same_count_rests(level: Level, count: int) -> None:
    decision = decided(level, count)
    if isinstance(decision, Open):
        assert isinstance(decided(decision.target, count), Rest)
