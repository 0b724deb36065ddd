"""What the answers are made of: plain data in, plain data out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest import on_disk
from services.ingest.contents import describe
from services.ingest.history import Cursor, page
from services.ingest.levels import parse_levels
from services.ingest.sentences import is_placed
from shared.catalog import Row
from shared.catalog.catalog import Drop, LevelChange, Relocation
from shared.errors import InvalidError
from shared.levels import COUNT_MAX, Level
from shared.state.contents import ContentState, Status
from tests.descriptors import open_descriptors

SILVER = Level("silver", 1000, 1999, "/levels/silver")
ROW = Row("7", "silver", "a/g.mp4", None)
NOTHING = ContentState.of("7", [None] * 12)


def state(status: Status, **values: object) -> ContentState:
    return replace(NOTHING, status=status, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "last_count", "count"),
    [
        (NOTHING, None, 1000),
        (NOTHING, 1234, 1234),
        (state("", count=5), None, 1005),
        (state("", count=5), 1234, 1239),
        (state("", count=5, absolute=True), 1234, 5),
        (state("idle", count=5, level="silver"), 1234, 5),
        (state("", count=COUNT_MAX), 1234, COUNT_MAX),
    ],
)
def test_the_count_is_reckoned_as_the_planner_does(held: ContentState, last_count: int | None, count: int) -> None:
    assert describe(replace(ROW, last_count=last_count), held, SILVER, None)["count"] == count


def test_a_content_that_redis_does_not_know() -> None:
    assert describe(ROW, NOTHING, SILVER, None) == {
        "cid": "7",
        "filename": "a/g.mp4",
        "level": "silver",
        "path": "/levels/silver/a/g.mp4",
        "count": 1000,
        "status": "idle",
        "target": None,
        "why": None,
        "move_id": None,
        "worker_id": None,
        "error": None,
        "last_relocation": None,
    }


@pytest.mark.parametrize(
    ("status", "last_count", "placed"),
    [
        ("", None, False),
        ("idle", None, False),
        ("idle", 5, True),
        ("", 5, True),
        ("unknown", 5, True),
        ("update", 5, False),
        ("moving", 5, False),
        ("failed", 5, False),
        ("done", None, True),
        ("retiring", 5, True),
    ],
)
def test_when_a_move_is_placed(status: Status, last_count: int | None, *, placed: bool) -> None:
    assert is_placed(state(status), replace(ROW, last_count=last_count)) is placed


def relocation(at: int, move_id: str) -> Relocation:
    return Relocation(move_id, "bronze", "silver", 1, "", 1, "", "link", "m", 1, at, at, at)


_TIMES = st.lists(st.integers(0, 5))


@given(_TIMES, _TIMES, _TIMES, st.integers(1, 4))
def test_pages_of_history_lose_and_repeat_nothing(
    changed: list[int], relocated: list[int], dropped: list[int], limit: int
) -> None:
    changes = [LevelChange(id_, 0, "a", at, "b") for id_, at in enumerate(sorted(changed), 1)][::-1]
    moves = [relocation(at, f"m{n:04}") for n, at in enumerate(sorted(relocated))][::-1]
    drops = [Drop(n, f"0:{n}-0", "m", "moves", "r", "w", at) for n, at in enumerate(sorted(dropped))][::-1]

    def fetch(cursor: Cursor) -> tuple[Sequence[LevelChange], Sequence[Relocation], Sequence[Drop]]:
        below = [c for c in changes if c.id < cursor.change_id]
        earlier = [m for m in moves if (m.committed_at, m.move_id) < (cursor.committed_at, cursor.move_id)]
        before = [d for d in drops if (d.dropped_at, d.id) < (cursor.dropped_at, cursor.drop_id)]
        return below[: limit + 1], earlier[: limit + 1], before[: limit + 1]

    cursor: Cursor | None = Cursor()
    seen = []
    while cursor is not None:
        items, cursor = page(*fetch(cursor), cursor, limit)
        assert len(items) <= limit
        seen += items
        cursor = cursor and Cursor.decode(cursor.encode())
    assert [item["at"] for item in seen] == sorted(changed + relocated + dropped, reverse=True)
    assert sorted(item.get("id", 0) or item["move_id"] for item in seen if item["kind"] == "relocation") == sorted(
        m.move_id for m in moves
    )
    assert len(seen) == len(changes) + len(moves) + len(drops)


@pytest.mark.parametrize("text", ["", "x", "é", "W10", "bnVsbA", "WzEsMiwzXQ", "WzEsMiwiw6kiXQ", "A" * 5000, "!!!!"])
def test_a_text_that_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidError, match="not a cursor"):
        Cursor.decode(text)


def test_levels_from_json() -> None:
    level = {"content_level": "one", "min_counts": 0, "max_counts": 9, "path": "/one", "note": "ignored"}
    assert list(parse_levels([level])) == [Level("one", 0, 9, "/one")]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({}, "must be an array"),
        ([7], "must be an array of objects"),
        ([], "is empty"),
        ([{"content_level": "one"}], "lacks min_counts, max_counts, path"),
        ([{"content_level": [], "min_counts": 0, "max_counts": 9, "path": "/one"}], "content_level"),
        (
            [{"content_level": "one", "min_counts": "0", "max_counts": 9, "path": "/one"}],
            "min_counts must be an integer",
        ),
        ([{"content_level": "one", "min_counts": {}, "max_counts": 9, "path": "/"}] * 2, "min_counts must"),
        ([{"content_level": "one", "min_counts": 1, "max_counts": 9, "path": "/one"}], "to nobody"),
        ([{}] * 101, "at most 100"),
    ],
)
def test_levels_that_are_not_sound(value: object, error: str) -> None:
    with pytest.raises(InvalidError, match=error):
        parse_levels(value)


def test_files_on_a_level(tmp_path: Path) -> None:
    level, outside = tmp_path / "bronze", tmp_path / "outside"
    (level / "a" / "b").mkdir(parents=True)
    (level / "a" / "b" / "file").touch()
    outside.mkdir()
    (outside / "file").touch()
    (level / "link").symlink_to(outside)
    (level / "a" / "link").symlink_to(outside / "file")
    os.mkfifo(level / "fifo")
    root = str(level)
    assert on_disk.fault(root, "a/b/file") == ""
    assert "no such file" in on_disk.fault(root, "a/b/other")
    assert "no such file" in on_disk.fault(root, "c/file")
    assert "following a link" in on_disk.fault(root, "link/file")
    assert "not a regular file" in on_disk.fault(root, "a/link")
    assert "not a regular file" in on_disk.fault(root, "a/b")
    assert "not a regular file" in on_disk.fault(root, "fifo")
    assert "following a link" in on_disk.fault(root, "a/b/file/c")
    with pytest.raises(InvalidError):
        on_disk.fault(root, "../outside/file")
    with pytest.raises(on_disk.LevelHiddenError):
        on_disk.fault(str(tmp_path / "silver"), "file")


def test_looking_at_files_leaks_no_descriptor(tmp_path: Path) -> None:
    before = open_descriptors()
    for name in ("a/b/c", "a", "d/e"):
        on_disk.fault(str(tmp_path), name)
    assert open_descriptors() == before
