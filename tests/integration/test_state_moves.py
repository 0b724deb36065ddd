from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from shared.messages import Move, Placed, Retire
from shared.state.moves import CAME_BACK, FLIP_FLOP_MS, NOT_MINE, OBSOLETE, SETTLED, Commits, Held, Moves
from tests.samples import a_move, a_placed, a_retire, commitment_of, retire_of
from tests.streams import CID, OTHER, THIRD, P, Streams, now_ms

HOSTILE = 'dir/"quotes" \\back\\ \u2028 é 日本 🎬 \x01\x1f\x7f\t\n{}[],: %s'


def as_fields(message: Move | Placed | Retire) -> dict[str, str]:
    flat = message.wire()
    return dict(zip(flat[::2], flat[1::2], strict=True))


def is_now(ms: int) -> bool:
    return abs(ms - now_ms()) < 5000


async def a_held_move(seen: Streams, cid: str = CID, *, attempt: int = 0, status: str = "update") -> Held:
    """A move in the hands of `one`, its content at that attempt."""
    move = a_move(cid)
    held = await seen.hold("moves", move, attempt=attempt)
    await seen.put_content(
        cid, level="bronze", filename=move.filename, status=status, move_id=move.move_id, target="silver",
        attempt=attempt, version=5, count=1500,
    )  # fmt: skip
    return held


async def a_held_retire(seen: Streams, cid: str = CID, *, attempt: int = 0) -> Held:
    retire = a_retire(cid)
    held = await seen.hold("retires", retire, attempt=attempt)
    await seen.put_content(
        cid, level="silver", status="retiring", move_id=retire.move_id, target="silver", attempt=attempt, version=7,
        count=1500, error="disk full", worker_id="one",
    )  # fmt: skip
    return held


async def started(seen: Streams, *held: Held, consumer: str = "one") -> list[int]:
    return await Moves(seen.scripts).start(held[0].stream, P, consumer, held)


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["update", "moving"])
async def test_each_start_of_a_move_hands_out_the_next_token(seen: Streams, status: str) -> None:
    held = await a_held_move(seen, status=status)
    assert await started(seen, held) == [1]
    state = await seen.content()
    assert (state["status"], state["worker_id"], state["attempt"]) == ("moving", "one", "1")
    assert await started(seen, held) == [2]
    assert (await seen.content())["attempt"] == "2"
    assert await seen.pending("moves") == {held.entry_id: "one"}


async def test_a_retire_starts_without_leaving_its_status(seen: Streams) -> None:
    held = await a_held_retire(seen)
    assert await started(seen, held) == [1]
    state = await seen.content()
    assert (state["status"], state["attempt"]) == ("retiring", "1")


async def test_an_entry_in_other_hands_cannot_be_started(seen: Streams) -> None:
    held = await a_held_move(seen)
    before = await seen.everything()
    assert await started(seen, held, consumer="two") == [NOT_MINE]
    assert await seen.everything() == before


async def test_an_entry_that_was_handled_cannot_be_started(seen: Streams) -> None:
    held = await a_held_move(seen)
    await seen.redis.xack(seen.keys().stream("moves"), "mover", held.entry_id)
    before = await seen.everything()
    assert await started(seen, held) == [NOT_MINE]
    assert await seen.everything() == before


@pytest.mark.parametrize("status", ["idle", "done", "retiring", "failed", "unknown", "forgotten"])
async def test_a_move_whose_content_has_moved_on_is_dropped(seen: Streams, status: str) -> None:
    held = await a_held_move(seen, status=status)
    state = await seen.content()
    assert await started(seen, held) == [OBSOLETE]
    assert await seen.content() == state
    assert (await seen.entries("moves"), await seen.pending("moves")) == ([], {})


async def test_a_move_that_another_one_replaced_is_dropped(seen: Streams) -> None:
    held = await a_held_move(seen)
    await seen.put_content(move_id="another")
    assert await started(seen, held) == [OBSOLETE]
    assert await seen.entries("moves") == []
    assert (await seen.content())["status"] == "update"


async def test_a_move_whose_content_redis_lost_is_dropped_and_leaves_no_state(seen: Streams) -> None:
    held = await seen.hold("moves", a_move(CID))
    assert await started(seen, held) == [OBSOLETE]
    assert await seen.content() == {}


@pytest.mark.parametrize("status", ["update", "moving", "done", "idle"])
async def test_a_retire_before_its_commit_is_dropped(seen: Streams, status: str) -> None:
    """Nothing but the recorder's commit makes a source removable."""
    held = await a_held_retire(seen)
    await seen.put_content(status=status)
    assert await started(seen, held) == [OBSOLETE]


async def test_a_batch_of_starts_is_answered_item_by_item(seen: Streams) -> None:
    fine, obsolete, stolen = [await a_held_move(seen, cid) for cid in (CID, OTHER, THIRD)]
    await seen.put_content(OTHER, status="idle")
    await seen.redis.xclaim(seen.keys().stream("moves"), "mover", "two", 0, [stolen.entry_id])
    assert await started(seen, fine, obsolete, stolen) == [1, OBSOLETE, NOT_MINE]
    assert [entry["cid"] for entry in await seen.entries("moves")] == [CID, THIRD]
    assert (await seen.content(THIRD))["status"] == "update"


# --- finish -----------------------------------------------------------------------------------------------------------


def word_on(held: Held) -> Placed:
    return a_placed(held.message.cid, move_id=held.message.move_id, attempts=held.attempt)


async def finished(seen: Streams, *held: Held) -> list[bool]:
    return await Moves(seen.scripts).finish(P, [(item, word_on(item)) for item in held])


async def test_a_finished_move_tells_the_recorder_and_leaves_its_stream(seen: Streams) -> None:
    held = await a_held_move(seen, attempt=2, status="moving")
    await seen.put_content(error="EIO", worker_id="one")
    assert await finished(seen, held) == [True]
    state = await seen.content()
    assert (state["status"], state["level"], state["attempt"]) == ("done", "bronze", "2")
    assert "error" not in state
    assert await seen.entries("placed") == [as_fields(word_on(held))]
    assert (await seen.entries("moves"), await seen.pending("moves")) == ([], {})


async def test_a_move_is_finished_once(seen: Streams) -> None:
    held = await a_held_move(seen, attempt=1, status="moving")
    await finished(seen, held)
    before = await seen.everything()
    assert await finished(seen, held) == [False]
    assert await seen.everything() == before


@pytest.mark.parametrize("attempt", [0, 1, 3])
async def test_the_word_of_a_stale_attempt_is_refused(seen: Streams, attempt: int) -> None:
    held = await a_held_move(seen, attempt=2, status="moving")
    before = await seen.everything()
    assert await finished(seen, held._replace(attempt=attempt)) == [False]
    assert await seen.everything() == before


@pytest.mark.parametrize("status", ["update", "done", "retiring", "failed", "idle"])
async def test_only_a_move_under_way_can_be_finished(seen: Streams, status: str) -> None:
    held = await a_held_move(seen, attempt=1, status=status)
    before = await seen.everything()
    assert await finished(seen, held) == [False]
    assert await seen.everything() == before


async def test_a_zombie_mover_is_refused_and_the_one_after_it_finishes(seen: Streams) -> None:
    zombie = await a_held_move(seen)
    assert await started(seen, zombie) == [1]
    await seen.redis.xclaim(seen.keys().stream("moves"), "mover", "two", 0, [zombie.entry_id])
    assert await started(seen, zombie, consumer="two") == [2]
    assert await finished(seen, zombie._replace(attempt=1)) == [False]
    assert await finished(seen, zombie._replace(attempt=2)) == [True]
    assert [entry["attempts"] for entry in await seen.said("placed")] == ["2"]


async def test_a_batch_of_finishes_is_answered_item_by_item(seen: Streams) -> None:
    items = [await a_held_move(seen, cid, attempt=1, status="moving") for cid in (CID, OTHER, THIRD)]
    await seen.put_content(OTHER, attempt=2)
    assert await finished(seen, *items) == [True, False, True]
    assert [entry["cid"] for entry in await seen.entries("placed")] == [CID, THIRD]
    assert [entry["cid"] for entry in await seen.entries("moves")] == [OTHER]


async def test_only_the_latest_attempt_is_current(seen: Streams) -> None:
    first = await a_held_move(seen, CID, attempt=1, status="moving")
    second = await a_held_move(seen, OTHER, attempt=2, status="moving")
    gone = Held("moves", P, b"1-1", a_move(THIRD), 1)
    moves = Moves(seen.scripts)
    assert await moves.current(P, [first, second, gone]) == [True, True, False]
    await seen.put_content(CID, attempt=2)
    await seen.put_content(OTHER, move_id="another")
    assert await moves.current(P, [first, second]) == [False, False]


# --- postpone and due -------------------------------------------------------------------------------------------------


async def test_a_postponed_move_holds_no_consumer_and_waits_its_time(seen: Streams) -> None:
    held = await a_held_move(seen, attempt=2, status="moving")
    await seen.put_content(worker_id="one")
    assert await Moves(seen.scripts).postpone(held, 60_000, "disk full: silver") is True
    ((entry, due),) = await seen.later()
    assert entry == ["moves", *held.message.wire()]
    assert is_now(due - 60_000)
    state = await seen.content()
    assert (state["status"], state["attempt"], state["error"]) == ("update", "2", "disk full: silver")
    assert "worker_id" not in state
    assert (await seen.entries("moves"), await seen.pending("moves")) == ([], {})


async def test_a_postponed_retire_goes_on_retiring(seen: Streams) -> None:
    held = await a_held_retire(seen, attempt=1)
    assert await Moves(seen.scripts).postpone(held, 60_000, "busy") is True
    assert (await seen.content())["status"] == "retiring"
    assert (await seen.later())[0][0][0] == "retires"


async def test_an_attempt_is_postponed_once(seen: Streams) -> None:
    held = await a_held_move(seen, attempt=1, status="moving")
    moves = Moves(seen.scripts)
    await moves.postpone(held, 60_000, "x")
    before = await seen.everything()
    assert await moves.postpone(held, 90_000, "y") is False
    assert await seen.everything() == before


async def test_a_stale_attempt_cannot_postpone_the_one_after_it(seen: Streams) -> None:
    held = await a_held_move(seen, attempt=2, status="moving")
    before = await seen.everything()
    moves = Moves(seen.scripts)
    assert await moves.postpone(held._replace(attempt=1), 60_000, "x") is False
    assert await moves.postpone(held._replace(message=a_move(CID)), 60_000, "x") is False
    assert await seen.everything() == before


async def test_an_entry_that_is_not_due_stays_aside(seen: Streams) -> None:
    held = await a_held_move(seen, attempt=1, status="moving")
    moves = Moves(seen.scripts)
    await moves.postpone(held, 60_000, "x")
    before = await seen.everything()
    assert await moves.due(P, 10) == 0
    assert await seen.everything() == before


async def test_a_due_entry_comes_back_with_every_field_as_it_was(seen: Streams) -> None:
    moves = Moves(seen.scripts)
    move = a_move(CID, filename=HOSTILE, why="")
    held = await seen.hold("moves", move)
    await seen.put_content(status="moving", move_id=move.move_id, attempt=0)
    (entry,) = await seen.redis.xrange(seen.keys().stream("moves"))
    assert await moves.postpone(held, 0, "x") is True
    assert await moves.due(P, 10) == 1
    (again,) = await seen.deliver("moves")
    assert again.fields == entry[1]
    assert Move.parse(again.fields) == move
    assert await seen.later() == []
    assert await moves.due(P, 10) == 0
    assert await started(seen, Held("moves", P, again.entry_id, move)) == [1]


async def test_due_entries_come_back_longest_waiting_first_and_to_their_own_streams(seen: Streams) -> None:
    moves = Moves(seen.scripts)
    for wait, cid in ((-100_000, CID), (-300_000, OTHER)):
        assert await moves.postpone(await a_held_move(seen, cid, attempt=1, status="moving"), wait, "x")
    assert await moves.postpone(await a_held_retire(seen, THIRD, attempt=1), -200_000, "x")
    assert await moves.due(P, 1) == 1
    assert [entry["cid"] for entry in await seen.entries("moves")] == [OTHER]
    assert await moves.due(P, 5) == 2
    assert [entry["cid"] for entry in await seen.entries("moves")] == [OTHER, CID]
    assert [entry["cid"] for entry in await seen.entries("retires")] == [THIRD]


async def test_a_due_entry_comes_back_once_when_all_movers_ask_at_the_same_time(seen: Streams) -> None:
    moves = Moves(seen.scripts)
    await moves.postpone(await a_held_move(seen, attempt=1, status="moving"), 0, "x")
    assert sum(await asyncio.gather(*(moves.due(P, 10) for _ in range(20)))) == 1
    assert len(await seen.entries("moves")) == 1


# --- commit -----------------------------------------------------------------------------------------------------------


async def a_held_word(seen: Streams, cid: str = CID, filename: str = "f.mp4") -> tuple[Held, Placed]:
    placed = a_placed(cid, filename=filename)
    held = await seen.hold("placed", placed)
    await seen.put_content(
        cid, level="bronze", status="done", move_id=placed.move_id, target="silver", attempt=3, version=5,
        worker_id="mover", count=1500,
    )  # fmt: skip
    return held, placed


async def committed(seen: Streams, *items: tuple[Held, Placed], not_before: int = 0) -> list[int]:
    orders = [commitment_of(held.entry_id, placed) for held, placed in items]
    return await Commits(seen.scripts).commit(P, orders, not_before)


async def test_a_commit_moves_the_state_and_orders_the_retire(seen: Streams) -> None:
    held, placed = await a_held_word(seen)
    assert await committed(seen, (held, placed)) == [1]
    assert await seen.content() == {
        "level": "silver", "status": "retiring", "move_id": placed.move_id, "target": "silver", "attempt": "0",
        "version": "6", "count": "1500", "worker_id": "",
    }  # fmt: skip
    assert await seen.entries("retires") == [as_fields(retire_of(placed))]
    assert (await seen.entries("placed"), await seen.pending("placed")) == ([], {})
    assert (await seen.reviews(), await seen.later()) == ({}, [])


async def test_a_commit_is_followed_once(seen: Streams) -> None:
    item = await a_held_word(seen)
    await committed(seen, item)
    before = await seen.everything()
    assert await committed(seen, item) == [0]
    assert await seen.everything() == before


async def test_a_commit_that_broke_off_after_the_state_orders_no_second_retire(seen: Streams) -> None:
    held, placed = await a_held_word(seen)
    await seen.put_content(status="retiring", move_id=placed.move_id, attempt=2, version=6, level="silver")
    before = await seen.content()
    assert await committed(seen, (held, placed)) == [1]
    assert await seen.content() == before
    assert await seen.entries("retires") == []
    assert (await seen.entries("placed"), await seen.pending("placed")) == ([], {})


async def test_a_retire_with_a_grace_waits_until_then(seen: Streams) -> None:
    held, placed = await a_held_word(seen, filename=HOSTILE)
    start = now_ms() + 60_000
    assert await committed(seen, (held, placed), not_before=start) == [1]
    assert await seen.entries("retires") == []
    assert await seen.later() == [(["retires", *retire_of(placed, start).wire()], start)]
    assert await Moves(seen.scripts).due(P, 10) == 0


async def test_a_retire_whose_grace_has_passed_comes_back_field_by_field(seen: Streams) -> None:
    held, placed = await a_held_word(seen, filename=HOSTILE)
    start = now_ms() + 150
    await committed(seen, (held, placed), not_before=start)
    await asyncio.sleep(0.2)
    assert await Moves(seen.scripts).due(P, 10) == 1
    (entry,) = await seen.deliver("retires")
    assert Retire.parse(entry.fields) == retire_of(placed, start)


async def test_a_grace_in_the_past_is_none(seen: Streams) -> None:
    item = await a_held_word(seen)
    await committed(seen, item, not_before=now_ms() - 1000)
    assert len(await seen.entries("retires")) == 1
    assert await seen.later() == []


@pytest.mark.parametrize("lost", ["replaced", "forgotten"])
async def test_a_commit_whose_state_has_moved_on_is_reviewed_and_nothing_is_retired(
    seen: Streams, lost: Literal["replaced", "forgotten"]
) -> None:
    item = await a_held_word(seen)
    if lost == "replaced":
        await seen.put_content(move_id="another", status="update")
    else:
        await seen.lose()
    state = await seen.content()
    assert await committed(seen, item) == [2]
    assert await seen.content() == state
    assert await seen.entries("retires") == []
    assert is_now((await seen.reviews())[CID])
    assert await seen.entries("placed") == []
    assert await committed(seen, item) == [0]


async def test_a_batch_of_commits_is_answered_item_by_item(seen: Streams) -> None:
    items = [await a_held_word(seen, cid) for cid in (CID, OTHER, THIRD)]
    await seen.put_content(CID, move_id="another")
    await committed(seen, items[1])
    assert await committed(seen, *items) == [2, 0, 1]
    assert [entry["cid"] for entry in await seen.entries("retires")] == [OTHER, THIRD]
    assert (await seen.reviews()).keys() == {CID}


async def test_a_relocation_that_failed_in_the_recorder_and_was_retried_goes_on(seen: Streams) -> None:
    item = await a_held_word(seen)
    await seen.put_content(status="failed")
    assert await committed(seen, item) == [1]
    assert (await seen.content())["status"] == "retiring"


# --- settle -----------------------------------------------------------------------------------------------------------


async def settled(seen: Streams, *held: Held) -> list[int]:
    return await Moves(seen.scripts).settle(P, held)


async def test_a_settled_content_is_idle_and_up_for_review(seen: Streams) -> None:
    held = await a_held_retire(seen, attempt=1)
    assert await settled(seen, held) == [SETTLED]
    state = await seen.content()
    assert is_now(int(state.pop("moved_at")))
    assert state == {"level": "silver", "came_from": "bronze", "status": "idle", "version": "8", "count": "1500"}
    assert is_now((await seen.reviews())[CID])
    assert (await seen.entries("retires"), await seen.pending("retires")) == ([], {})


async def test_a_content_settles_once(seen: Streams) -> None:
    held = await a_held_retire(seen, attempt=1)
    await settled(seen, held)
    before = await seen.everything()
    assert await settled(seen, held) == [0]
    assert await seen.everything() == before


async def test_a_stale_attempt_settles_nothing(seen: Streams) -> None:
    held = await a_held_retire(seen, attempt=2)
    before = await seen.everything()
    assert await settled(seen, held._replace(attempt=1)) == [0]
    assert await settled(seen, held._replace(message=a_retire(CID))) == [0]
    assert await seen.everything() == before


@pytest.mark.parametrize("status", ["idle", "update", "moving", "done", "failed"])
async def test_only_a_retiring_content_settles(seen: Streams, status: str) -> None:
    held = await a_held_retire(seen, attempt=1)
    await seen.put_content(status=status)
    before = await seen.everything()
    assert await settled(seen, held) == [0]
    assert await seen.everything() == before


async def test_a_batch_of_settlings_is_answered_item_by_item(seen: Streams) -> None:
    items = [await a_held_retire(seen, cid, attempt=1) for cid in (CID, OTHER, THIRD)]
    await seen.put_content(OTHER, attempt=2)
    assert await settled(seen, *items) == [SETTLED, 0, SETTLED]
    assert (await seen.reviews()).keys() == {CID, THIRD}
    assert [entry["cid"] for entry in await seen.entries("retires")] == [OTHER]


@pytest.mark.parametrize(
    ("came_from", "ago_ms", "answer"),
    [
        ("silver", 60_000, CAME_BACK),
        ("silver", FLIP_FLOP_MS - 60_000, CAME_BACK),
        ("silver", FLIP_FLOP_MS + 1, SETTLED),
        ("gold", 60_000, SETTLED),
    ],
)
async def test_a_content_that_comes_back_soon_to_the_level_it_left_is_told(
    seen: Streams, came_from: str, ago_ms: int, answer: int
) -> None:
    held = await a_held_retire(seen, attempt=1)
    await seen.put_content(came_from=came_from, moved_at=now_ms() - ago_ms)
    assert await settled(seen, held) == [answer]
    assert (await seen.content())["came_from"] == "bronze"
