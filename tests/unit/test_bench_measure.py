from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from benchmarks import report
from benchmarks.measure import Beside, Bound, Row, growing, measured


def _row(figures: list[float], beside: list[float] | None, *bounds: Bound) -> Row:
    ours = iter(figures)
    theirs = iter(beside or [])
    return Row(
        "tally", "views/s", lambda: next(ours), Beside("HINCRBY", lambda: next(theirs)) if beside else None, bounds
    )


def test_ratio_is_that_of_the_medians() -> None:
    result = measured(_row([10, 30, 20], [5, 100, 10], Bound("ratio", ">=", 2)), 3)
    assert (result.median, result.median_beside, result.ratio, result.met) == (20, 10, 2, True)


def test_ours_and_beside_take_turns() -> None:
    order: list[str] = []

    def figure(side: str) -> float:
        order.append(side)
        return 1

    measured(Row("a", "s", lambda: figure("ours"), Beside("b", lambda: figure("beside")), ()), 2)
    assert order == ["ours", "beside", "ours", "beside"]


def test_a_single_bound_that_fails_is_not_met() -> None:
    row = _row([10], [10], Bound("ratio", ">=", 0.5), Bound("ours", ">=", 11))
    assert measured(row, 1).met is False


def test_a_row_without_bounds_only_informs() -> None:
    assert measured(_row([1], None), 1).met is None


def test_a_row_bounds_its_rounds() -> None:
    row = Row("slow", "s", lambda: 1.0, None, (), most_rounds=1)
    assert len(measured(row, 5).ours) == 1


def test_a_missing_ratio_meets_nothing() -> None:
    assert measured(_row([1], None, Bound("ratio", ">=", 0)), 1).met is False


def test_json_comes_back_as_it_was() -> None:
    line = report.line("Planner", measured(_row([1, 2], [2, 4], Bound("ours", "<=", 3)), 2), 0.5)
    assert report.to_json(report.from_json(report.to_json([line]))) == report.to_json([line])


def test_a_new_figure_replaces_the_row_of_its_name_alone() -> None:
    old = [report.line("A", measured(_row([1], None), 1), 1.0)]
    new = [report.line("A", measured(_row([2], None), 1), 1.0)]
    assert [each.ours for each in report.merged(old, new, ["A"])] == [2]
    gone = [replace(each, name="of before") for each in old]
    assert len(report.merged([*old, *gone], new, ["A"])) == 2
    assert [each.name for each in report.merged([*old, *gone], new, ["A"], whole=["A"])] == [new[0].name]


def test_prose_around_the_markers_stays() -> None:
    page = "before\n<!-- tables: written by make bench -->\nold\n<!-- end of tables -->\nafter\n"
    written = report.between(page, "tables", "new")
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "new" in written
    assert "old" not in written


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="tables"):
        report.between("page", "tables", "new")


def test_growth_measures_all_sizes_by_turns_and_compares_the_last_with_the_first() -> None:
    order: list[int] = []

    def cost(size: int) -> float:
        order.append(size)
        return size + len(order) / 100

    row = growing("cost of a view", "µs", "partitions", (1, 8, 64), cost)
    result = measured(row, 2)
    assert order == [64, 1, 8, 64, 1, 8]
    assert (row.name, row.beside and row.beside.name) == ("cost of a view, 64 partitions", "1 partition")
    assert result.ratio == pytest.approx(64 / 1, rel=0.1)
    assert result.met is False
    line = report.line("Growth", result, 1.0)
    assert [(point.size, point.spread) for point in line.points] == [
        (1, (1.02, 1.05)), (8, (8.03, 8.06)), (64, (64.01, 64.04))
    ]  # fmt: skip
    assert report.to_json(report.from_json(report.to_json([line]))) == report.to_json([line])
    assert "| cost of a view | 8 partitions | 8.04 µs | 8.03–8.06 |" in report.tables([line])


def test_a_row_of_before_without_points_can_be_read() -> None:
    written = report.to_json([report.line("A", measured(_row([1], None), 1), 1.0)])
    before = [
        {key: value for key, value in row.items() if key not in {"of", "points"}} for row in orjson.loads(written)
    ]
    assert report.to_json(report.from_json(orjson.dumps(before))) == written
