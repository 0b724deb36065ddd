"""Moves that no longer fit the level table are taken back."""

from __future__ import annotations

import pytest

from shared.state.moves import Held, Moves
from tests.samples import a_move, a_placed
from tests.streams import CID, Streams, now_ms


@pytest.fixture
async def held(seen: Streams) -> Held:
    """A move under way, at its second attempt."""
    move = a_move(CID)
    await seen.put_content(
        level="bronze", filename=move.filename, status="moving", move_id=move.move_id, target="silver", why="popular",
        attempt=2, version=5, count=1500, worker_id="one", error="disk full",
    )  # fmt: skip
    return await seen.hold("moves", move, attempt=2)


async def test_a_withdrawn_move_leaves_its_content_idle_and_due_for_review(seen: Streams, held: Held) -> None:
    assert await Moves(seen.scripts).withdraw(held, 2000)
    assert await seen.content() == {
        "level": "bronze", "filename": held.message.filename, "status": "idle", "count": "1500", "version": "6",
    }  # fmt: skip
    assert abs((await seen.reviews())[CID] - now_ms() - 2000) < 1000
    assert (await seen.entries("moves"), await seen.pending("moves")) == ([], {})
    assert await seen.dead() == []


async def test_a_move_is_withdrawn_once(seen: Streams, held: Held) -> None:
    await Moves(seen.scripts).withdraw(held, 0)
    before = await seen.everything()
    assert not await Moves(seen.scripts).withdraw(held, 0)
    assert await seen.everything() == before


@pytest.mark.parametrize("attempt", [1, 3])
async def test_a_stale_attempt_withdraws_nothing(seen: Streams, held: Held, attempt: int) -> None:
    before = await seen.everything()
    assert not await Moves(seen.scripts).withdraw(held._replace(attempt=attempt), 0)
    assert not await Moves(seen.scripts).withdraw(held._replace(message=a_move(CID)), 0)
    assert await seen.everything() == before


@pytest.mark.parametrize("status", ["idle", "update", "done", "retiring", "failed"])
async def test_only_a_move_under_way_is_withdrawn(seen: Streams, held: Held, status: str) -> None:
    await seen.put_content(status=status)
    before = await seen.everything()
    assert not await Moves(seen.scripts).withdraw(held, 0)
    assert await seen.everything() == before


async def test_a_zombie_cannot_withdraw_and_nobody_finishes_what_was_withdrawn(seen: Streams, held: Held) -> None:
    """The zombie looked at the level table before another attempt began."""
    await Moves(seen.scripts).start("moves", held.partition, "one", [held])
    assert not await Moves(seen.scripts).withdraw(held, 0)
    assert await Moves(seen.scripts).withdraw(held._replace(attempt=3), 0)
    placed = a_placed(CID, move_id=held.message.move_id)
    assert await Moves(seen.scripts).finish(held.partition, [(held._replace(attempt=3), placed)]) == [False]
