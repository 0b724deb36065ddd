"""What bodies take of memory while they come in is bounded, and none waits for ever."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from services.ingest.problems import UnavailableError
from services.ingest.room import Room

PIECE = 10


async def read(room: Room, pieces: int, most: list[int]) -> None:
    with room.share() as share:
        for _ in range(pieces):
            await share.grow(PIECE)
            most.append(room.taken_bytes)
            await asyncio.sleep(0)


async def test_halves_of_bodies_do_not_keep_each_other_out_for_ever() -> None:
    room, most = Room(100, wait_s=5), list[int]()
    await asyncio.gather(*(read(room, 8, most) for _ in range(50)))
    assert room.taken_bytes == 0
    assert 100 <= max(most) <= 100 + 8 * PIECE


async def test_a_body_that_is_larger_than_the_room_gets_through() -> None:
    room, most = Room(30, wait_s=5), list[int]()
    await asyncio.gather(*(read(room, 8, most) for _ in range(3)))
    assert room.taken_bytes == 0


async def test_a_body_that_finds_no_room_for_too_long_is_refused_and_gives_its_share_back() -> None:
    room, most = Room(30, wait_s=0.05), list[int]()
    with ExitStack() as slow:
        ahead = slow.enter_context(room.share())
        for _ in range(4):
            await ahead.grow(PIECE)
        with pytest.raises(UnavailableError, match="nothing was taken in"):
            await read(room, 1, most)
        with room.share() as small:
            small.hold(1)
            assert room.taken_bytes == 41
        assert room.taken_bytes == 40
    await read(room, 4, most)
    assert room.taken_bytes == 0


async def test_whoever_gives_up_lets_the_next_one_go_on() -> None:
    room, most = Room(10, wait_s=5), list[int]()
    with room.share() as ahead:
        await ahead.grow(10)
        await ahead.grow(10)
        waiting = asyncio.create_task(read(room, 1, most))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await waiting
    assert room.taken_bytes == 0
