from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidError
from shared.levels import COUNT_MAX, UNBOUNDED, Band, Level, Levels
from tests.samples import BRONZE, GOLD, SAMPLE_LEVELS, SILVER


def bronze(**changes: Any) -> Level:
    values: dict[str, Any] = {"content_level": "bronze", "min_counts": 0, "max_counts": 999, "path": "/l/bronze"}
    return Level(**(values | changes))


def silver(**changes: Any) -> Level:
    values: dict[str, Any] = {"content_level": "silver", "min_counts": 1000, "max_counts": 1999, "path": "/l/silver"}
    return Level(**(values | changes))


PLAIN = "path of bronze must be a plain absolute directory without '.', '..' or a trailing slash"
ABSOLUTE = "path of bronze must be an absolute path of at most 700 characters"
WITHIN = "the directory of silver lies within that of bronze: give each level a directory of its own"

UNSOUND: list[tuple[list[Level], str]] = [
    ([], "the level table is empty: give at least one level with min_counts 0"),
    ([bronze(min_counts=1)], "level ranges leave 0-0 to nobody: start bronze at 0"),
    ([bronze(min_counts=500)], "level ranges leave 0-499 to nobody: start bronze at 0"),
    ([bronze(), silver(min_counts=1500)], "level ranges leave 1000-1499 to nobody: start silver at 1000"),
    ([bronze(), silver(min_counts=1001)], "level ranges leave 1000-1000 to nobody: start silver at 1000"),
    ([bronze(), silver(min_counts=999)], "bronze and silver both claim 999-999: start silver at 1000"),
    ([bronze(), silver(min_counts=0)], "bronze and silver both claim 0-999: start silver at 1000"),
    ([bronze(max_counts=5000), silver()], "bronze and silver both claim 1000-1999: start silver at 5001"),
    ([bronze(min_counts=5, max_counts=4)], "bronze ends at 4, before it starts at 5: swap them"),
    ([bronze(), silver(content_level="bronze")], "two levels have the same content_level: give each its own name"),
    ([bronze(), silver(path="/l/bronze")], WITHIN),
    ([bronze(), silver(path="/l/bronze/silver")], WITHIN),
    ([bronze(content_level="")], "content_level '' is not 1-64 characters of A-Za-z0-9._-"),
    ([bronze(content_level="b" * 65)], f"content_level '{'b' * 65}' is not 1-64 characters of A-Za-z0-9._-"),
    ([bronze(content_level="b\n")], "content_level 'b\\n' is not 1-64 characters of A-Za-z0-9._-"),
    ([bronze(content_level="a b")], "content_level 'a b' is not 1-64 characters of A-Za-z0-9._-"),
    ([bronze(content_level=7)], "content_level 7 is not 1-64 characters of A-Za-z0-9._-"),
    ([bronze(min_counts=-1)], f"min_counts of bronze must be an integer from 0 to {COUNT_MAX}, got -1"),
    ([bronze(min_counts=True)], f"min_counts of bronze must be an integer from 0 to {COUNT_MAX}, got True"),
    ([bronze(max_counts="9")], f"max_counts of bronze must be an integer from 0 to {COUNT_MAX}, got '9'"),
    ([bronze(max_counts=1.5)], f"max_counts of bronze must be an integer from 0 to {COUNT_MAX}, got 1.5"),
    ([bronze(max_counts=2**53)], f"max_counts of bronze must be an integer from 0 to {COUNT_MAX}, got {2**53}"),
    ([bronze(path="bronze")], ABSOLUTE),
    ([bronze(path="")], ABSOLUTE),
    ([bronze(path="/l\0")], ABSOLUTE),
    ([bronze(path="/" + "p" * 700)], ABSOLUTE),
    ([bronze(path=None)], ABSOLUTE),
    ([bronze(path="/")], PLAIN),
    ([bronze(path="//l")], PLAIN),
    ([bronze(path="/l/")], PLAIN),
    ([bronze(path="/l/../etc")], PLAIN),
    ([bronze(path="/l/./b")], PLAIN),
    ([bronze(path="/l//b")], PLAIN),
]


@pytest.mark.parametrize(("table", "message"), UNSOUND)
def test_an_unsound_table_is_refused_with_cause_and_remedy(table: list[Level], message: str) -> None:
    with pytest.raises(InvalidError) as refused:
        Levels(table)
    assert str(refused.value) == message


def test_a_sibling_directory_whose_name_begins_alike_is_no_part_of_the_other() -> None:
    Levels([bronze(path="/l/a"), silver(path="/l/ab")])


def test_the_longest_path_and_name_are_taken() -> None:
    level = bronze(content_level="b" * 64, path="/" + "p" * 699)
    assert Levels([level]).default == level


@pytest.mark.parametrize(
    ("count", "level"),
    [(0, BRONZE), (999, BRONZE), (1000, SILVER), (1999, SILVER), (2000, GOLD), (3001, GOLD), (3002, GOLD),
     (COUNT_MAX, GOLD)],
)  # fmt: skip
def test_counts_at_the_bounds_belong_to_their_level(count: int, level: Level) -> None:
    assert SAMPLE_LEVELS.level_for(count) == level


def test_bands_are_half_open_and_the_highest_has_no_end() -> None:
    assert [SAMPLE_LEVELS.band(level) for level in SAMPLE_LEVELS] == [
        Band(0, 1000),
        Band(1000, 2000),
        Band(2000, UNBOUNDED),
    ]


def test_contents_start_on_the_level_that_begins_at_0() -> None:
    assert Levels([GOLD, SILVER, BRONZE]).default == BRONZE


def test_a_level_is_found_by_its_name_only() -> None:
    assert SAMPLE_LEVELS.get("gold") == GOLD
    assert SAMPLE_LEVELS.get("Gold") is None


@st.composite
def tables(draw: st.DrawFn) -> list[Level]:
    starts = sorted(draw(st.sets(st.integers(1, COUNT_MAX), max_size=8)))
    edges = [0, *starts]
    last = draw(st.integers(edges[-1], COUNT_MAX))
    return [
        Level(f"level-{i}", low, high, f"/levels/{i}")
        for i, (low, high) in enumerate(zip(edges, [*(s - 1 for s in starts), last], strict=True))
    ]


def counts_near(table: Sequence[Level]) -> st.SearchStrategy[int]:
    edges = {edge + d for level in table for edge in (level.min_counts, level.max_counts) for d in (-1, 0, 1)}
    inside = sorted(edge for edge in edges if 0 <= edge <= COUNT_MAX)
    return st.sampled_from(inside) | st.integers(0, COUNT_MAX)


@given(st.data())
def test_every_count_belongs_to_exactly_one_level_and_its_band_says_the_same(data: st.DataObject) -> None:
    table = data.draw(tables())
    count = data.draw(counts_near(table))
    levels = Levels(table)
    claimed = [level for level in table if level.min_counts <= count <= level.max_counts]
    if count > table[-1].max_counts:
        claimed = [table[-1]]
    assert [levels.level_for(count)] == claimed
    for level in table:
        band = levels.band(level)
        assert (band.lo <= count < band.hi) == (levels.level_for(count) == level)


@given(st.data())
def test_the_order_in_which_levels_are_given_does_not_matter(data: st.DataObject) -> None:
    table = data.draw(tables())
    shuffled = data.draw(st.permutations(table))
    assert Levels(shuffled) == Levels(table)
    assert hash(Levels(shuffled)) == hash(Levels(table))
    assert list(Levels(shuffled)) == table


@given(st.data())
def test_a_table_with_one_level_taken_out_is_refused_or_still_total(data: st.DataObject) -> None:
    table = data.draw(tables())
    gone = data.draw(st.integers(0, len(table) - 1))
    rest = table[:gone] + table[gone + 1 :]
    if gone == len(table) - 1 and rest:
        assert list(Levels(rest)) == rest
    else:
        with pytest.raises(InvalidError):
            Levels(rest)
