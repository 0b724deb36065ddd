from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from cli.servers import PrivateRedis
from shared.keys import partition_of
from shared.messages import Tally, unpack_views
from shared.redis_client import is_down
from shared.state.views import Batch, DeadlineError, Part, Views
from tests.streams import CID, PARTITIONS, P, Streams, connected, now_ms

LIFE_MS = 60_000


@pytest.fixture
async def seen(redis_db: str) -> AsyncIterator[Streams]:
    async with connected(redis_db) as scripts:
        yield Streams(scripts)


def part(marker: str, cid: str = CID, views: int = 1) -> Part:
    return Part(marker, LIFE_MS, Tally({cid: views}, {}).pack())


def batch(marker: str, *partitions: int, views: int = 1) -> Batch:
    return Batch(marker, LIFE_MS, {p: Tally({f"of-{p}": views}, {}).pack() for p in partitions})


async def tally_of(seen: Streams, partition: int = P) -> Tally:
    """All that waits on the stream, in its order."""
    tally = Tally.empty()
    for _, fields in await seen.redis.xrange(seen.keys(partition).stream("views")):
        tally.merge(unpack_views(fields))
    return tally


async def test_views_are_taken_in_with_their_marker_in_one_entry(seen: Streams) -> None:
    assert await Views(seen.scripts).publish({P: [part("a", views=3), part("b", views=4)]}) == 2
    assert await seen.entries("views") == [{"v1": f'{{"add":{{"{CID}":3}}}}', "v2": f'{{"add":{{"{CID}":4}}}}'}]
    assert await tally_of(seen) == Tally({CID: 7}, {})
    for marker in "ab":
        life = await seen.redis.pttl(seen.keys().seen(marker))
        assert LIFE_MS - 5000 < life <= LIFE_MS


async def test_the_same_call_again_adds_nothing(seen: Streams) -> None:
    views = Views(seen.scripts)
    await views.publish({P: [part("a"), part("b")]})
    before = await seen.everything()
    assert await views.publish({P: [part("a"), part("b")]}) == 0
    assert await seen.everything() == before


async def test_of_an_overlapping_call_only_what_is_new_is_added(seen: Streams) -> None:
    views = Views(seen.scripts)
    await views.publish({P: [part("a", views=1)]})
    assert await views.publish({P: [part("a", views=1), part("b", views=10), part("a", views=1)]}) == 1
    assert await tally_of(seen) == Tally({CID: 11}, {})


async def test_a_marker_given_twice_in_one_call_counts_once(seen: Streams) -> None:
    assert await Views(seen.scripts).publish({P: [part("a", views=5), part("a", views=5)]}) == 1
    assert await tally_of(seen) == Tally({CID: 5}, {})


async def test_a_marker_that_has_expired_counts_again(seen: Streams) -> None:
    views = Views(seen.scripts)
    await views.publish({P: [part("a")]})
    await seen.redis.delete(seen.keys().seen("a"))
    assert await views.publish({P: [part("a")]}) == 1
    assert len(await seen.entries("views")) == 2


async def test_markers_of_two_partitions_do_not_meet(seen: Streams) -> None:
    assert await Views(seen.scripts).publish({p: [part("a")] for p in range(PARTITIONS)}) == PARTITIONS
    assert [len(await seen.entries("views", p)) for p in range(PARTITIONS)] == [1] * PARTITIONS


async def test_a_batch_has_one_marker_for_all_its_partitions(seen: Streams) -> None:
    """One each were a key per partition and load, each living for minutes."""
    views = Views(seen.scripts)
    assert await views.publish({}, batch("a", *range(PARTITIONS), views=3)) == PARTITIONS
    for p in range(PARTITIONS):
        assert await tally_of(seen, p) == Tally({f"of-{p}": 3}, {})
    (marker,) = [name async for name in seen.redis.scan_iter("reshelve:*:seen:*")]
    assert LIFE_MS - 5000 < await seen.redis.pttl(marker) <= LIFE_MS
    before = await seen.everything()
    assert await views.publish({}, batch("a", *range(PARTITIONS), views=3)) == 0
    assert await seen.everything() == before
    assert await views.publish({}, batch("b", 1)) == 1


async def test_a_batch_stands_behind_the_parts_of_its_partition(seen: Streams) -> None:
    views = Views(seen.scripts)
    parts = {P: [part("x", "first"), part("y", "second")], 3: [part("x", "alone")]}
    assert await views.publish(parts, batch("a", 0, P)) == 5
    packed = ['{"add":{"first":1}}', '{"add":{"second":1}}', f'{{"add":{{"of-{P}":1}}}}']
    assert await seen.entries("views") == [{f"v{n}": tally for n, tally in enumerate(packed, 1)}]
    assert [len(await seen.entries("views", p)) for p in range(PARTITIONS)] == [1, 0, 1, 1]


async def test_a_batch_of_nothing_leaves_no_marker(seen: Streams) -> None:
    """As of a load whose views all have markers of their own."""
    assert await Views(seen.scripts).publish({P: [part("x")]}, batch("a")) == 1
    markers = [name async for name in seen.redis.scan_iter("reshelve:*:seen:*")]
    assert markers == [seen.keys().seen("x").encode()]


async def test_what_is_known_of_parts_and_batch_is_told_apart(seen: Streams) -> None:
    """A client's repetition comes with the views of others, and a batch is repeated with parts that are known."""
    views = Views(seen.scripts)
    await views.publish({P: [part("x", views=5)]}, batch("a", 0, P))
    assert await views.publish({P: [part("x", views=5)]}, batch("b", 0, P)) == 2
    assert await views.publish({P: [part("x", views=5), part("y", views=10)]}, batch("b", 0, P)) == 1
    assert await tally_of(seen) == Tally({CID: 15, f"of-{P}": 2}, {})
    assert await tally_of(seen, 0) == Tally({"of-0": 2}, {})


async def test_a_full_server_takes_in_nothing_and_later_everything(tmp_path: Path) -> None:
    """All partitions or none: no marker may stay behind without its views."""
    with PrivateRedis.start(tmp_path) as server:
        async with connected(server.url) as scripts:
            seen, views = Streams(scripts), Views(scripts)
            parts, sums = {p: [part("a")] for p in range(PARTITIONS)}, batch("b", *range(PARTITIONS))
            await views.publish({P: [part("before")]})
            before = await seen.everything()
            await seen.redis.config_set("maxmemory", 1)
            with pytest.raises(RedisError) as full:
                await views.publish(parts, sums)
            assert is_down(full.value)
            await seen.redis.config_set("maxmemory", 0)
            assert await seen.everything() == before
            assert await views.publish(parts, sums) == 2 * PARTITIONS


async def test_past_its_deadline_nothing_is_taken_in(seen: Streams) -> None:
    before = await seen.everything()
    parts = {0: [part("a")], P: [part("a"), part("b")]}
    with pytest.raises(DeadlineError):
        await Views(seen.scripts).publish(parts, batch("c", 0, 1), deadline_ms=now_ms() - 1)
    assert await seen.everything() == before


async def test_before_its_deadline_all_is_taken_in(seen: Streams) -> None:
    parts = {0: [part("a")], P: [part("b")]}
    assert await Views(seen.scripts).publish(parts, batch("c", 0, 1), deadline_ms=now_ms() + 60_000) == 4


async def test_a_deadline_that_passes_between_two_partitions_takes_in_both_or_none(seen: Streams) -> None:
    """One large partition takes its time; the clock is looked at once for both."""
    views = Views(seen.scripts)

    def parts(name: str) -> dict[int, list[Part]]:
        return {1: [Part(f"{name}-{n}", LIFE_MS, b"{}") for n in range(4000)], P: [part(f"{name}-0")]}

    await views.publish(parts("warm up"))
    began = now_ms()
    await views.publish(parts("measure"))
    took_ms = now_ms() - began
    torn = []
    for step in range(3, 13):
        try:
            await views.publish(parts(str(step)), deadline_ms=now_ms() + took_ms * step // 10)
        except DeadlineError:
            expected = 0
        else:
            expected = 1
        taken = [await seen.redis.exists(seen.keys(p).seen(f"{step}-0")) for p in (1, P)]
        if taken != [expected, expected]:
            torn.append((step, expected, taken))
    assert not torn


async def test_a_restarted_server_has_forgotten_the_script_and_counts_once_all_the_same(seen: Streams) -> None:
    views = Views(seen.scripts)
    await views.publish({P: [part("a")]})
    await seen.redis.script_flush()
    assert await views.publish({p: [part("b")] for p in range(PARTITIONS)}) == PARTITIONS
    await seen.redis.script_flush()
    assert await views.publish({p: [part("b")] for p in range(PARTITIONS)}) == 0
    assert [len(await seen.entries("views", p)) for p in range(PARTITIONS)] == [1, 1, 2, 1]


@pytest.mark.parametrize("number", [999, 1000, 1001, 2500, 10_000])
async def test_any_number_of_parts_is_taken_in_in_order(seen: Streams, number: int) -> None:
    parts = [Part(f"m{n}", LIFE_MS, Tally.empty().pack()) for n in range(number - 2)]
    parts += [part("last but one", views=7), Part("last", LIFE_MS, Tally({}, {CID: 100}).pack())]
    assert await Views(seen.scripts).publish({P: parts}) == number
    assert await tally_of(seen) == Tally({}, {CID: 100})
    sizes = [len(entry) for entry in await seen.entries("views")]
    assert sum(sizes) == number
    assert max(sizes) <= 1000


async def test_an_idempotency_key_remembers_its_first_body(seen: Streams) -> None:
    views = Views(seen.scripts)
    assert await views.remember("key", "digest-1", LIFE_MS) == "digest-1"
    assert await views.remember("key", "digest-1", LIFE_MS) == "digest-1"
    assert await views.remember("key", "digest-2", LIFE_MS) == "digest-1"
    assert await views.remember("another", "digest-2", LIFE_MS) == "digest-2"
    name = seen.keys(partition_of("key", PARTITIONS)).idempotency("key")
    assert LIFE_MS - 5000 < await seen.redis.pttl(name) <= LIFE_MS
