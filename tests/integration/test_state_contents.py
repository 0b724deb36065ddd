from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest

from shared.keys import WORK_STREAMS
from shared.messages import Tally
from shared.state.contents import OPEN_STATUSES, Contents, ContentState
from tests.samples import a_move, cids_of
from tests.streams import CID, OTHER, PARTITIONS, THIRD, Streams, connected, now_ms


@pytest.fixture
async def seen(redis_db: str) -> AsyncIterator[Streams]:
    async with connected(redis_db) as scripts:
        yield Streams(scripts)


@pytest.fixture
def contents(seen: Streams) -> Contents:
    return Contents(seen.scripts)


NOTHING = ContentState(
    cid=CID, level="", filename="", count=0, at=0, lo=None, hi=None, status="", move_id="", target="", worker_id="",
    attempt=0, version="0", moved_at=0, why="", absolute=False, error="",
)  # fmt: skip


async def test_a_content_that_redis_does_not_know_is_empty(contents: Contents) -> None:
    assert await contents.read([CID]) == [NOTHING]
    assert await contents.read([]) == []


async def test_every_field_of_a_state_is_read(seen: Streams, contents: Contents) -> None:
    await seen.put_content(
        CID, level="silver", filename="é.mp4", count=2**53 - 1, at=5, lo=0, hi=2**53, status="moving", move_id="m",
        target="gold", worker_id="w", attempt=3, version=8, moved_at=4, why="because", error="e",
    )  # fmt: skip
    assert await contents.read([CID]) == [
        ContentState(
            cid=CID, level="silver", filename="é.mp4", count=2**53 - 1, at=5, lo=0, hi=2**53, status="moving",
            move_id="m", target="gold", worker_id="w", attempt=3, version="8", moved_at=4, why="because", absolute=True,
            error="e",
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "absolute", "away"),
    [({}, False, False), ({"absolute": 1}, True, False), ({"status": "moving"}, True, True)],
)
async def test_what_a_count_without_a_band_is_to_the_tally(
    seen: Streams, contents: Contents, fields: dict[str, str | int], absolute: bool, away: bool
) -> None:
    await seen.put_content(CID, count=7, at=5, **fields)
    (state,) = await contents.read([CID])
    assert (state.count, state.at, state.lo, state.hi) == (7, 5, None, None)
    assert (state.absolute, state.away) == (absolute, away)


async def test_states_come_in_the_order_they_were_asked_for_over_all_partitions(
    seen: Streams, contents: Contents
) -> None:
    cids = [cids_of(p, 1)[0] for p in (3, 0, 2, 1)]
    for n, cid in enumerate(cids):
        await seen.put_content(cid, count=n)
    assert [(state.cid, state.count) for state in await contents.read([*cids, cids[0]])] == [
        *zip(cids, range(4), strict=True),
        (cids[0], 0),
    ]


# --- touch ------------------------------------------------------------------------------------------------------------


async def test_known_contents_are_put_up_for_review(seen: Streams, contents: Contents) -> None:
    await seen.put_content(CID, status="idle")
    await seen.put_content(OTHER, count=3)
    assert await contents.touch([CID, OTHER, THIRD], "known") == 2
    reviews = await seen.reviews()
    assert reviews.keys() == {CID, OTHER}
    assert all(abs(due - now_ms()) < 5000 for due in reviews.values())
    assert await seen.content(THIRD) == {}


async def test_all_contents_can_be_put_up_for_review(seen: Streams, contents: Contents) -> None:
    await seen.put_content(CID, status="idle", version=3)
    before = await seen.content()
    assert await contents.touch([CID, OTHER], "all") == 2
    assert (await seen.reviews()).keys() == {CID, OTHER}
    assert (await seen.content(CID), await seen.content(OTHER)) == (before, {})


async def test_a_content_is_up_for_review_once_however_often_it_is_touched(seen: Streams, contents: Contents) -> None:
    await contents.touch([CID], "all")
    await contents.touch([CID, CID], "all")
    assert await seen.redis.zcard(seen.keys().review) == 1


async def test_a_claimed_review_is_brought_forward(seen: Streams, contents: Contents) -> None:
    await seen.put_content(status="idle")
    await seen.put_review(CID, now_ms() + 600_000)
    await contents.touch([CID])
    assert (await seen.reviews())[CID] < now_ms() + 5000


async def test_each_partition_gets_its_own(seen: Streams, contents: Contents) -> None:
    cids = [cid for p in range(PARTITIONS) for cid in cids_of(p, 3)]
    assert await contents.touch(cids, "all") == 12
    for p in range(PARTITIONS):
        assert sorted(await seen.redis.zrange(seen.keys(p).review, 0, -1)) == sorted(c.encode() for c in cids_of(p, 3))


async def test_a_forgotten_content_that_is_registered_anew_starts_afresh(seen: Streams, contents: Contents) -> None:
    await seen.put_content(status="forgotten", count=500)
    assert await contents.touch([CID], "known") == 0
    assert await contents.read([CID]) == [NOTHING]


# --- forget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(OPEN_STATUSES))
async def test_a_content_with_an_open_relocation_is_not_forgotten(
    seen: Streams, contents: Contents, status: str
) -> None:
    await seen.put_content(status=status, version=2)
    await seen.put_review()
    before = await seen.everything()
    assert await contents.forget(CID) == status
    assert await seen.everything() == before


@pytest.mark.parametrize("status", ["idle", "failed", "unknown", "forgotten"])
async def test_a_forgotten_content_leaves_only_a_mark_that_expires(
    seen: Streams, contents: Contents, status: str
) -> None:
    await seen.put_content(CID, status=status, version=2, count=5, level="bronze", move_id="m")
    await seen.put_review(CID)
    await seen.put_review(OTHER)
    for _ in range(2):
        assert await contents.forget(CID) == ""
        assert await seen.content() == {"status": "forgotten"}
        assert 55_000 < await seen.life_ms() <= 60_000
        assert await seen.reviews() == {OTHER: 1}


async def test_a_content_that_redis_does_not_know_can_be_forgotten(seen: Streams, contents: Contents) -> None:
    assert await contents.forget(CID) == ""
    assert await seen.content() == {"status": "forgotten"}


# --- groups, sizes ----------------------------------------------------------------------------------------------------


async def test_groups_begin_at_the_first_entry_and_are_made_once(seen: Streams, contents: Contents) -> None:
    entry_id = await seen.add("moves", a_move(CID))
    await contents.make_groups(WORK_STREAMS)
    assert [entry.entry_id for entry in await seen.deliver("moves")] == [entry_id]
    await contents.make_groups(WORK_STREAMS)
    assert await seen.pending("moves") == {entry_id: "one"}
    assert await seen.deliver("moves") == []
    assert [await seen.pending(name, p) for p in (0, 1, 3) for name in WORK_STREAMS] == [{}] * 12


async def test_the_backlog_is_what_no_one_has_handled(seen: Streams, contents: Contents) -> None:
    assert await contents.backlog() == {"views": 0, "moves": 0, "placed": 0, "retires": 0}
    await contents.make_groups(WORK_STREAMS)
    for p in range(PARTITIONS):
        for _ in range(p):
            await seen.add("views", Tally.empty(), p)
    await seen.add("moves", a_move(CID), 3)
    await seen.deliver("moves", partition=3)
    assert await contents.backlog() == {"views": 6, "moves": 1, "placed": 0, "retires": 0}


async def test_a_watched_stream_tells_its_size_its_hands_and_its_oldest(seen: Streams, contents: Contents) -> None:
    assert await contents.watch("views") == (0, 0, None)
    await contents.make_groups(WORK_STREAMS)
    assert await contents.watch("views") == (0, 0, None)
    oldest = await seen.add("views", Tally.empty(), 3)
    for p in (1, 1, 3):
        await seen.add("views", Tally.empty(), p)
    await seen.deliver("views", partition=1)
    size, pending, oldest_ms = await contents.watch("views")
    assert (size, pending, oldest_ms) == (4, 2, int(oldest.partition(b"-")[0]))


async def test_a_stream_without_a_group_is_watched_too(seen: Streams, contents: Contents) -> None:
    await seen.add("views", Tally.empty())
    assert (await contents.watch("views"))[:2] == (1, 0)


async def test_what_waits_is_counted_over_all_partitions(seen: Streams, contents: Contents) -> None:
    assert await contents.waiting() == {"review": 0, "later": 0, "dead": 0}
    counts: dict[Literal["review", "later", "dead"], int] = {"review": 0, "later": 0, "dead": 0}
    for p in range(PARTITIONS):
        keys = seen.keys(p)
        for n in range(p + 1):
            await seen.redis.zadd(keys.review, {f"r{n}": now_ms() + 1000})
            await seen.redis.zadd(keys.later, {f"l{n}": 1, f"m{n}": 2})
            await seen.redis.xadd(keys.dead, {"reason": "x"})
        counts["review"] += p + 1
        counts["later"] += 2 * (p + 1)
        counts["dead"] += p + 1
    assert await contents.waiting() == counts
