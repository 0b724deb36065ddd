"""When a breaker opens, for how long, and what closes it."""

from __future__ import annotations

from itertools import count

import pytest

from services.mover.breaker import FIRST_S, LIMIT, LONGEST_S, Breakers, Door, doors_of
from tests.samples import a_move, a_retire

IN, OUT = Door("silver", "in"), Door("silver", "out")
OTHER = Door("gold", "in")


def broken(now: float = 0.0, *, whole: bool = True) -> Breakers:
    breakers = Breakers()
    for n in range(LIMIT):
        opened = breakers.failed(IN, f"m{n}", now, whole=whole, why="disk full")
        assert opened == (n == LIMIT - 1)
    return breakers


def test_so_many_failures_in_a_row_open_it_and_others_go_on() -> None:
    breakers = broken(now=100)
    assert breakers.wait_s([OUT, IN], "x", 100) == FIRST_S
    assert breakers.wait_s([OUT, OTHER], "x", 100) == 0
    assert breakers.open() == {"silver": 100 + FIRST_S}
    assert (breakers.why("silver"), breakers.why("gold")) == ("disk full", "")


def test_a_success_in_between_starts_the_row_anew() -> None:
    breakers = Breakers()
    for n in range(LIMIT * 3):
        if n % 2:
            breakers.succeeded([IN])
        assert not breakers.failed(IN, f"m{n}", 0, whole=True)
    assert breakers.open() == {}


def test_a_success_at_the_other_door_changes_nothing() -> None:
    """A full level is emptied while it is full."""
    breakers = broken()
    breakers.succeeded([OUT])
    assert breakers.wait_s([IN], "x", 0) == FIRST_S
    assert breakers.wait_s([OUT], "x", 0) == 0


def test_one_bad_file_opens_nothing_where_it_may_be_the_file() -> None:
    breakers = Breakers()
    for _ in range(20):
        assert not breakers.failed(OUT, "bad", 0, whole=False)
    assert breakers.failed(OUT, "another", 0, whole=False)
    assert breakers.open() == {"silver": FIRST_S}


def test_one_content_is_enough_where_the_whole_level_fails() -> None:
    breakers = Breakers()
    assert [breakers.failed(IN, "one", 0, whole=True) for _ in range(LIMIT)] == [False] * (LIMIT - 1) + [True]


def test_one_trial_at_a_time_once_the_time_is_over() -> None:
    breakers = broken()
    assert breakers.wait_s([IN], "a", FIRST_S - 0.1) == pytest.approx(0.1)
    assert breakers.wait_s([IN], "a", FIRST_S) == 0
    assert breakers.wait_s([IN], "b", FIRST_S) >= FIRST_S
    assert breakers.wait_s([IN], "a", FIRST_S) == 0  # its own trial, delivered again


def test_a_trial_that_succeeds_closes_it() -> None:
    breakers = broken()
    assert breakers.wait_s([IN], "a", FIRST_S) == 0
    breakers.succeeded([IN])
    assert breakers.wait_s([IN], "b", FIRST_S) == 0
    assert breakers.open() == {}
    assert not breakers.failed(IN, "b", FIRST_S, whole=True)


def test_each_trial_that_fails_doubles_the_time_up_to_the_longest() -> None:
    breakers, now, spans = broken(), 0.0, []
    for n in count():
        wait = breakers.wait_s([IN], f"t{n}", now)
        if wait == 0:
            assert breakers.failed(IN, f"t{n}", now, whole=False)
            continue
        spans.append(wait)
        if len(spans) == 6:
            break
        now += wait
    assert spans == [5, 10, 20, 40, LONGEST_S, LONGEST_S]


def test_what_began_before_it_opened_does_not_lengthen_it() -> None:
    breakers = broken()
    assert breakers.failed(IN, "late", 3, whole=True)
    assert breakers.open() == {"silver": FIRST_S}


def test_a_trial_that_tells_nothing_leaves_it_to_another() -> None:
    breakers = broken()
    assert breakers.wait_s([IN], "a", FIRST_S) == 0
    breakers.ended([IN], "b")
    assert breakers.wait_s([IN], "b", FIRST_S) > 0
    breakers.ended([IN], "a")
    assert breakers.wait_s([IN], "b", FIRST_S) == 0


def test_work_that_must_wait_at_one_door_is_no_trial_at_the_other() -> None:
    breakers = broken()
    for n in range(LIMIT):
        breakers.failed(OTHER, f"m{n}", 3, whole=True)
    assert breakers.wait_s([IN, OTHER], "both", FIRST_S) == pytest.approx(3)
    assert breakers.wait_s([IN], "a", FIRST_S) == 0


def test_a_move_goes_in_and_a_retire_only_looks() -> None:
    assert doors_of(a_move("7")) == (Door("bronze", "out"), Door("silver", "in"))
    assert doors_of(a_retire("7")) == (Door("bronze", "out"), Door("silver", "out"))
