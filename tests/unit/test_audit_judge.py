"""What an audit finds wrong with one content: plain facts in, findings out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cli.audit.findings import Code, Finding, most_affected
from cli.audit.judge import Facts, Sameness, Sight, judge
from shared.catalog import Tracked
from shared.state.contents import ContentState
from shared.state.mending import Lying

ROW = Tracked("7", "silver", "dir/g.mp4", 4)
FILE = Sight("file", 4)
SETTLED = Facts(
    ContentState.of("7", [None] * 12),
    ROW,
    sights={"silver": FILE},
)


def state(**changes: Any) -> ContentState:
    idle: dict[str, Any] = {
        "level": "silver", "filename": "dir/g.mp4", "count": 1500, "at": 5, "lo": 1000, "hi": 2000, "status": "idle",
        "move_id": "",
    }  # fmt: skip
    return replace(SETTLED.state, **(idle | changes))


def facts(content: ContentState | None = None, **changes: Any) -> Facts:
    return replace(SETTLED, **({"state": content or state()} | changes))


def found(one: Facts) -> list[tuple[Code, str]]:
    return [(finding.code, finding.remedy) for finding in judge(one)]


def test_a_settled_content_is_well_and_so_is_one_that_redis_never_heard_of() -> None:
    assert judge(facts()) == []
    assert judge(SETTLED) == []


@pytest.mark.parametrize(
    ("status", "stream", "code"),
    [
        ("update", "moves", Code.MOVE_LOST),
        ("moving", "moves", Code.MOVE_LOST),
        ("done", "placed", Code.PLACED_LOST),
        ("retiring", "retires", Code.RETIRE_LOST),
        ("failed", "dead", Code.LETTER_LOST),
    ],
)
def test_a_state_needs_the_entry_that_moves_it_on(status: str, stream: str, code: Code) -> None:
    moving = state(status=status, move_id="m")
    assert found(facts(moving, entries=frozenset({(stream, stream, "m")}))) == []
    assert found(facts(moving)) == [(code, "make idle")]
    assert found(facts(moving, up_for_review=True)) == [(code, "make idle")], "a review does not move it on"
    assert found(facts(moving, entries=frozenset({(stream, stream, "other")}))) == [(code, "make idle")]
    elsewhere = frozenset({("views", "views", "m"), ("later", "views", "m")})
    assert found(facts(moving, entries=elsewhere)) == [(code, "make idle")]


def test_a_move_or_retire_may_wait_in_later_for_its_own_stream() -> None:
    moving, retiring = state(status="update", move_id="m"), state(status="retiring", move_id="m")
    assert judge(facts(moving, entries=frozenset({("later", "moves", "m")}))) == []
    assert judge(facts(retiring, entries=frozenset({("later", "retires", "m")}))) == []
    assert found(facts(retiring, entries=frozenset({("later", "moves", "m")}))) == [(Code.RETIRE_LOST, "make idle")]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (state(level="bronze"), Code.LEVEL_DIFFERS),
        (state(count=2000), Code.REVIEW_LOST),
        (state(count=999), Code.REVIEW_LOST),
        (state(status="", level="", lo=None, hi=None), Code.REVIEW_LOST),
        (state(status="unknown", level=""), Code.REVIEW_LOST),
        (state(lo=None, hi=None, away=True), Code.REVIEW_LOST),
    ],
)
def test_what_asks_for_a_review_must_be_up_for_one(content: ContentState, code: Code) -> None:
    assert found(facts(content)) == [(code, "review")]
    assert found(facts(content, up_for_review=True)) == []


def test_a_content_whose_dead_letter_was_dropped_rests_without_a_band() -> None:
    assert judge(facts(state(count=5000, lo=None, hi=None))) == []


@pytest.mark.parametrize("status", ["update", "moving", "done", "retiring"])
def test_an_entry_that_was_buried_as_it_killed_its_consumers_waits_for_an_operator(status: str) -> None:
    assert judge(facts(state(status=status, move_id="m"), entries=frozenset({("dead", "moves", "m")}))) == []


def test_a_state_without_a_row_is_found_unless_it_waits_to_become_known() -> None:
    gone: dict[str, Any] = {"row": None, "sights": {}}
    assert found(facts(**gone)) == [(Code.STATE_WITHOUT_ROW, "review")]
    assert found(facts(up_for_review=True, **gone)) == []
    assert found(facts(state(status="unknown"), **gone)) == []
    assert found(facts(state(status="forgotten"), **gone)) == []
    assert found(facts(state(status="moving", move_id="m"), **gone)) == [(Code.MOVE_LOST, "make idle")]


def test_a_file_that_is_missing_or_on_another_level_is_never_repaired() -> None:
    assert found(facts(sights={})) == [(Code.FILE_MISSING, "")]
    assert found(facts(sights={"silver": Sight("other")})) == [(Code.FILE_MISSING, "")]
    (finding,) = judge(facts(sights={"gold": FILE}))
    assert (finding.code, finding.level, finding.remedy) == (Code.WRONG_LEVEL, "gold", "")


def test_nothing_is_said_of_a_file_whose_level_cannot_be_seen() -> None:
    assert judge(facts(sights={}, out_of_sight=frozenset({"silver"}))) == []
    assert judge(facts(sights={"gold": FILE}, out_of_sight=frozenset({"silver"}))) == []
    (finding,) = judge(facts(sights={}, out_of_sight=frozenset({"gold"})))
    assert "could not look on gold" in finding.detail
    assert found(facts(sights={"silver": Sight("unreadable", detail="why")})) == [(Code.UNREADABLE, "")]


def test_a_changed_size_is_a_warning() -> None:
    (finding,) = judge(facts(sights={"silver": Sight("file", 5)}))
    assert (finding.code, finding.severity) == (Code.SIZE_CHANGED, "warning")
    assert judge(facts(row=replace(ROW, bytes=None), sights={"silver": Sight("file", 5)})) == []


@pytest.mark.parametrize(
    ("same", "remedy"),
    [
        ("same content", "remove second copy"),
        ("one inode", "remove second copy"),
        ("one entry", ""),
        ("other content", ""),
        ("other size", ""),
        ("not compared", ""),
    ],
)
def test_only_a_second_copy_that_is_proven_equal_may_go(same: Sameness, remedy: str) -> None:
    both = facts(sights={"silver": FILE, "gold": FILE}, sameness={"gold": same})
    (finding,) = judge(both)
    assert (finding.code, finding.level, finding.remedy) == (Code.TWO_LEVELS, "gold", remedy)
    assert same in finding.detail


def test_a_second_copy_is_as_it_should_be_while_its_move_is_open_and_stays_while_a_dead_letter_waits() -> None:
    both: dict[str, Any] = {"sights": {"silver": FILE, "gold": FILE}, "sameness": {"gold": "same content"}}
    done, failed = state(status="done", move_id="m"), state(status="failed", move_id="m")
    assert judge(facts(done, entries=frozenset({("placed", "placed", "m")}), **both)) == []
    assert found(facts(done, **both)) == [
        (Code.PLACED_LOST, "make idle"),
        (Code.TWO_LEVELS, "remove second copy"),
    ]
    assert found(facts(failed, entries=frozenset({("dead", "moves", "m")}), **both)) == [(Code.TWO_LEVELS, "")]


def test_a_finding_is_one_line_whatever_a_file_is_called() -> None:
    hostile = "a\nb\x1b[31m\udcff"
    finding = Finding(Code.UNKNOWN_FILE, "in no row", level="gold", filename=hostile)
    assert finding.line().isprintable()
    assert orjson.loads(orjson.dumps(finding.record()))["code"] == "unknown_file"


def test_findings_about_one_content_are_one_affected() -> None:
    lying = Lying("moves", 0, "1-1", "moves", "", "")
    subjects = {
        Finding(Code.MOVE_LOST, "x", "7").subject,
        Finding(Code.TWO_LEVELS, "y", "7", "gold").subject,
        Finding(Code.STRAY_PART, "z", level="gold", filename="p").subject,
        Finding(Code.ENTRY_ORPHANED, "z", entry=lying).subject,
    }
    assert len(subjects) == 3


def test_a_single_one_may_always_be_mended() -> None:
    assert [most_affected(n, 0.05) for n in (0, 3, 39, 40, 1_000_000)] == [1, 1, 1, 2, 50_000]
