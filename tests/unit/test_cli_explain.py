"""Why a content is where it is, in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.explain import Explanation, count_of, lines, look_for, why
from shared.catalog import Row
from shared.levels import Level, Levels
from shared.state.contents import ContentState, Status

BRONZE = Level("bronze", 0, 999, "/b")
SILVER = Level("silver", 1000, 1999, "/s")
GOLD = Level("gold", 2000, 3001, "/g")
LEVELS = Levels([BRONZE, SILVER, GOLD])


def state(status: Status = "idle", *, level: str = "bronze", count: int = 0, absolute: bool = False) -> ContentState:
    return ContentState(
        cid="7",
        level=level,
        filename="7.mp4",
        count=count,
        at=0,
        lo=0,
        hi=1000,
        status=status,
        move_id="",
        target="silver",
        worker_id="",
        attempt=0,
        version="1",
        moved_at=0,
        why="count 1964 belongs on silver (1000-1999), not bronze (0-999)",
        absolute=absolute,
        error="source missing: 7.mp4",
    )


@pytest.mark.parametrize(
    ("count", "level", "words"),
    [
        (12, BRONZE, "rests on bronze: count 12 is within 0–999; moves to silver at 1000"),
        (1500, SILVER, "rests on silver: count 1500 is within 1000–1999; moves to gold at 2000, to bronze below 1000"),
        (9000, GOLD, "rests on gold: count 9000 is within 2000 and more; moves to silver below 2000"),
    ],
)
def test_at_rest(count: int, level: Level, words: str) -> None:
    assert why(state(), count, level, LEVELS, due=False) == words


def test_one_level_holds_everything() -> None:
    only = Level("all", 0, 9, "/a")
    assert why(state(), 12, only, Levels([only]), due=False) == "rests on all: count 12 is within 0 and more"


def test_on_the_wrong_level() -> None:
    assert why(state(), 1500, BRONZE, LEVELS, due=True) == (
        "is on bronze, but count 1500 asks for silver: its review is due"
    )
    assert "the next view brings one" in why(state(), 1500, BRONZE, LEVELS, due=False)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("update", "waits for a mover to take it to silver: count 1964 belongs on silver"),
        ("moving", "is being placed on silver: count 1964"),
        ("done", "is placed on silver, and waits for the commit: count 1964"),
        ("retiring", "is on bronze by the catalog; its source copy is being retired: count 1964"),
        ("failed", "stays on bronze though count 1964 asks for silver: source missing: 7.mp4"),
    ],
)
def test_under_way(status: Status, words: str) -> None:
    assert why(state(status), 1964, BRONZE, LEVELS, due=False).startswith(words)


@pytest.mark.parametrize(
    ("redis", "last_count", "count"),
    [
        (state(level="silver", count=1200), 1100, 1200),
        (state(level="", count=3), None, 1003),
        (state(level="", count=3), 1500, 1503),
        (state(level="", count=3, absolute=True), 1500, 3),
    ],
)
def test_a_count_that_redis_lost_goes_on_from_the_catalog(
    redis: ContentState, last_count: int | None, count: int
) -> None:
    assert count_of(redis, Row("7", "silver", "7.mp4", last_count), SILVER) == count


def test_looks_for_the_file_without_following_a_link(tmp_path: Path) -> None:
    (tmp_path / "7.mp4").write_text("x")
    (tmp_path / "link.mp4").symlink_to("7.mp4")
    assert look_for(str(tmp_path), "7.mp4") == "yes"
    assert look_for(str(tmp_path), "8.mp4") == "no"
    assert look_for(str(tmp_path), "7.mp4/8.mp4") == "no"
    assert look_for(str(tmp_path), "link.mp4") == "not a regular file"
    assert look_for(str(tmp_path / "gone"), "7.mp4") == "not visible"


def test_leaves_out_what_there_is_nothing_to_say_about() -> None:
    found = Explanation(
        cid="7",
        filename="7\x1b[31m.mp4",
        level="bronze",
        path="/b/7\x1b[31m.mp4",
        file="no",
        count=12,
        lo=None,
        hi=None,
        status="idle",
        target=None,
        move_id=None,
        worker=None,
        attempts=0,
        error=None,
        why="rests",
        decision=None,
        review_due=None,
        last_view=1_000,
        last_relocation=None,
    )
    shown = dict(lines(found, 61_000))
    assert shown == {
        "content": r"7  '7\x1b[31m.mp4'",
        "why": "rests",
        "count": "12, last view 60 s ago",
        "level": "bronze",
        "file": r"'/b/7\x1b[31m.mp4'  (MISSING)",
        "status": "idle",
        "relocation": "never relocated",
    }
