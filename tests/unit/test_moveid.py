from __future__ import annotations

import time
from itertools import pairwise
from uuid import RFC_4122, UUID

from shared.moveid import new_move_id, new_move_ids


def test_a_move_id_is_a_uuid_of_version_7() -> None:
    for _ in range(1000):
        text = new_move_id()
        uuid = UUID(text)
        assert str(uuid) == text
        assert len(text) == 36
        assert uuid.version == 7
        assert uuid.variant == RFC_4122


def test_its_first_48_bits_are_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(new_move_id()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = []
    for _ in range(5):
        made.append(new_move_id())
        time.sleep(0.002)
    assert all(earlier < later for earlier, later in pairwise(made))


def test_all_74_random_bits_are_random_and_no_others() -> None:
    ones, zeros = 0, 0
    for _ in range(400):
        value = UUID(new_move_id()).int
        ones |= value
        zeros |= ~value
    changing = ones & zeros & (2**80 - 1)
    fixed = (0xF << 76) | (0b11 << 62)
    assert changing == (2**80 - 1) & ~fixed


def test_ids_of_one_millisecond_differ() -> None:
    assert len({new_move_id() for _ in range(20_000)}) == 20_000


def test_many_ids_at_once_are_as_many_different_ones() -> None:
    made = new_move_ids(20_000)
    assert len(made) == len(set(made)) == 20_000
    assert {UUID(text).version for text in made} == {7}
