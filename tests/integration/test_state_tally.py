from __future__ import annotations

from collections.abc import Sequence

import pytest

from shared.keys import GROUPS
from shared.levels import COUNT_MAX
from shared.messages import Tally
from shared.state.moves import RawEntry
from shared.state.views import Tallied, Tallies
from tests.samples import cids_of
from tests.streams import CID, OTHER, PARTITIONS, P, Streams, now_ms

AT = 1_700_000_000_000
COUNTED_NEW = Tallied("counted", reviews=1)
COUNTED = Tallied("counted", reviews=0)


def add(**views: int) -> Tally:
    return Tally(views, {})


def total(**counts: int) -> Tally:
    return Tally({}, counts)


async def handed(seen: Streams, *tallies: Tally, consumer: str = "one") -> list[RawEntry]:
    """One entry per tally, in the consumer's hands."""
    for tally in tallies:
        await seen.add("views", tally)
    return await seen.deliver("views", consumer)


async def apply(seen: Streams, entries: Sequence[RawEntry], tally: Tally, at: int = AT) -> Tallied:
    ids = [entry.entry_id for entry in entries]
    return await Tallies(seen.scripts).apply(P, ids, tally, at)


async def take_over(seen: Streams, entries: Sequence[RawEntry], consumer: str) -> None:
    key = seen.keys().stream("views")
    await seen.redis.xclaim(key, GROUPS["views"], consumer, 0, [entry.entry_id for entry in entries])


async def test_views_are_counted_and_their_entries_leave_the_stream(seen: Streams) -> None:
    entries = await handed(seen, add(**{CID: 3}), add(**{CID: 4, OTHER: 1}))
    before = now_ms()
    assert await apply(seen, entries, add(**{CID: 7, OTHER: 1})) == Tallied("counted", reviews=2)
    assert await seen.content(CID) == {"count": "7", "at": str(AT)}
    assert await seen.content(OTHER) == {"count": "1", "at": str(AT)}
    assert await seen.entries("views") == []
    assert await seen.pending("views") == {}
    reviews = await seen.reviews()
    assert reviews.keys() == {CID, OTHER}
    assert all(before - 1000 <= due <= now_ms() + 1000 for due in reviews.values())


async def test_a_repeated_call_finds_its_entries_stale_and_counts_nothing(seen: Streams) -> None:
    entries = await handed(seen, add(**{CID: 3}), add(**{CID: 4}))
    await apply(seen, entries, add(**{CID: 7}))
    before = await seen.everything()
    assert await apply(seen, entries, add(**{CID: 7})) == Tallied(
        "stale", stale=frozenset(entry.entry_id for entry in entries)
    )
    assert await seen.everything() == before


async def test_one_stale_entry_holds_back_the_whole_batch_and_is_named(seen: Streams) -> None:
    gone, there = await handed(seen, add(**{CID: 3}), add(**{CID: 4}))
    await apply(seen, [gone], add(**{CID: 3}))
    before = await seen.everything()
    assert await apply(seen, [gone, there], add(**{CID: 7})) == Tallied("stale", stale=frozenset({gone.entry_id}))
    assert await seen.everything() == before
    assert await apply(seen, [there], add(**{CID: 4})) == COUNTED
    assert (await seen.content())["count"] == "7"


async def test_an_entry_that_was_handed_to_nobody_is_not_counted(seen: Streams) -> None:
    entry_id = await seen.add("views", add(**{CID: 3}))
    before = await seen.everything()
    assert await apply(seen, [RawEntry("views", P, entry_id, {})], add(**{CID: 3})) == Tallied(
        "stale", stale=frozenset({entry_id})
    )
    assert await seen.everything() == before


async def test_thousands_of_stale_entries_are_all_named(seen: Streams) -> None:
    """Lua returns a few thousand values at most when they stand on its stack."""
    entries = [RawEntry("views", P, b"%d-1" % n, {}) for n in range(1, 10_001)]
    answer = await apply(seen, entries, add(**{CID: 1}))
    assert answer == Tallied("stale", stale=frozenset(entry.entry_id for entry in entries))
    assert await seen.content() == {}


async def test_a_view_is_counted_once_when_its_entry_was_reclaimed(seen: Streams) -> None:
    """Both consumers believe that the entry is theirs; whichever comes first counts it."""
    entries = await handed(seen, add(**{CID: 3}), consumer="one")
    await take_over(seen, entries, "two")
    assert (await seen.pending("views"))[entries[0].entry_id] == "two"
    answers = [await apply(seen, entries, add(**{CID: 3})) for _ in ("the one that lost it", "its owner")]
    assert [answer.outcome for answer in answers] == ["counted", "stale"]
    assert (await seen.content())["count"] == "3"


async def test_a_batch_waits_for_an_older_entry_in_other_hands(seen: Streams) -> None:
    older = await handed(seen, total(**{CID: 100}), consumer="one")
    newer = await handed(seen, add(**{CID: 5}), consumer="two")
    before = await seen.everything()
    assert await apply(seen, newer, add(**{CID: 5})) == Tallied("behind", oldest=older[0].entry_id)
    assert await seen.everything() == before
    assert await apply(seen, older, total(**{CID: 100})) == COUNTED_NEW
    assert await apply(seen, newer, add(**{CID: 5})) == COUNTED
    assert (await seen.content())["count"] == "105"


async def test_a_batch_with_a_gap_waits_even_for_an_entry_of_its_own_consumer(seen: Streams) -> None:
    first, second, third = await handed(seen, add(**{CID: 1}), add(**{CID: 2}), add(**{CID: 3}))
    assert await apply(seen, [second], add(**{CID: 2})) == Tallied("behind", oldest=first.entry_id)
    assert await apply(seen, [first, third], add(**{CID: 4})) == Tallied("behind", oldest=second.entry_id)
    assert await seen.content() == {}
    assert await apply(seen, [first, second, third], add(**{CID: 6})) == COUNTED_NEW


async def test_newer_entries_in_other_hands_are_not_waited_for(seen: Streams) -> None:
    older = await handed(seen, add(**{CID: 1}), consumer="one")
    await handed(seen, *[add(**{CID: 2})] * 3, consumer="two")
    assert await apply(seen, older, add(**{CID: 1})) == COUNTED_NEW


async def test_totals_and_increments_keep_their_order_across_two_consumers(seen: Streams) -> None:
    first = await handed(seen, add(**{CID: 7}), consumer="one")
    second = await handed(seen, total(**{CID: 100}), add(**{CID: 1}), consumer="two")
    third = await handed(seen, add(**{CID: 2}), consumer="one")
    batches = [(third, add(**{CID: 2})), (second, total(**{CID: 101})), (first, add(**{CID: 7}))]
    outcomes = []
    while batches:
        # The youngest asks first, again and again.
        for batch in batches:
            answer = await apply(seen, *batch)
            outcomes.append(answer.outcome)
            if answer.outcome == "counted":
                batches.remove(batch)
                break
    assert outcomes == ["behind", "behind", "counted", "behind", "counted", "counted"]
    assert (await seen.content())["count"] == "103"


async def test_a_content_that_is_up_for_review_keeps_its_place(seen: Streams) -> None:
    await seen.put_review(CID, 5)
    entries = await handed(seen, add(**{CID: 1}))
    assert await apply(seen, entries, add(**{CID: 1})) == COUNTED
    assert await seen.reviews() == {CID: 5}


BAND: dict[str, str | int] = {"level": "silver", "status": "idle", "lo": 1000, "hi": 2000}


@pytest.mark.parametrize(
    ("count", "tally", "after", "due"),
    [
        (1500, add(**{CID: 1}), 1501, False),
        (1500, add(**{CID: 499}), 1999, False),
        (1500, add(**{CID: 500}), 2000, True),
        (1500, add(**{CID: 100_000}), 101_500, True),
        (1500, total(**{CID: 1000}), 1000, False),
        (1500, total(**{CID: 999}), 999, True),
        (1500, total(**{CID: 0}), 0, True),
        (1500, total(**{CID: 2000}), 2000, True),
        (999, total(**{CID: 1000}), 1000, False),
        (1500, add(**{CID: 0}), 1500, False),
    ],
)
async def test_only_a_count_outside_its_band_asks_for_a_review(
    seen: Streams, count: int, tally: Tally, after: int, due: bool
) -> None:
    await seen.put_content(CID, **BAND, count=count)
    entries = await handed(seen, tally)
    assert await apply(seen, entries, tally) == Tallied("counted", reviews=int(due))
    assert (await seen.content())["count"] == str(after)
    assert (await seen.reviews()).keys() == ({CID} if due else set())


@pytest.mark.parametrize("tally", [add(**{CID: 1}), add(**{CID: 999}), total(**{CID: 1600}), total(**{CID: 7})])
async def test_when_a_content_was_viewed_last_is_known_exactly(seen: Streams, tally: Tally) -> None:
    """A move's `viewed_at`, from which the time to its commit is measured."""
    await seen.put_content(CID, **BAND, count=1500, at=AT)
    entries = await handed(seen, tally)
    await apply(seen, entries, tally, AT + 5)
    assert (await seen.content())["at"] == str(AT + 5)


@pytest.mark.parametrize("count", ["many views", "", "12", "-5 1", "nan 1 1000 2000", " 7 1"])
async def test_a_count_that_is_no_number_is_begun_anew(seen: Streams, count: str) -> None:
    """An error in the midst of a script would leave the entries acknowledged and half of the contents uncounted."""
    await seen.put_content(CID, **BAND)
    await seen.redis.hset(seen.keys().counts, CID, count)
    entries = await handed(seen, add(**{CID: 1100, OTHER: 2}))
    await apply(seen, entries, add(**{CID: 1100, OTHER: 2}))
    assert ((await seen.content())["count"], (await seen.content(OTHER))["count"]) == ("1100", "2")


async def test_a_band_without_end_is_never_left_upwards(seen: Streams) -> None:
    await seen.put_content(CID, level="gold", status="idle", lo=2000, hi=COUNT_MAX + 1, count=3000)
    entries = await handed(seen, total(**{CID: COUNT_MAX}))
    assert await apply(seen, entries, total(**{CID: COUNT_MAX})) == COUNTED


async def test_a_content_at_rest_without_a_band_is_reviewed(seen: Streams) -> None:
    await seen.put_content(CID, level="silver", status="idle", count=1500)
    entries = await handed(seen, add(**{CID: 1}))
    assert await apply(seen, entries, add(**{CID: 1})) == COUNTED_NEW


@pytest.mark.parametrize("status", ["update", "moving", "done", "retiring", "failed"])
async def test_while_a_relocation_is_open_views_count_and_ask_for_nothing(seen: Streams, status: str) -> None:
    await seen.put_content(CID, level="bronze", status=status, count=1500, version=3, move_id="m", attempt=1)
    before = await seen.content()
    entries = await handed(seen, add(**{CID: 9000}))
    assert await apply(seen, entries, add(**{CID: 9000})) == COUNTED
    assert await seen.content() == before | {"count": "10500", "at": str(AT)}
    assert await seen.reviews() == {}


@pytest.mark.parametrize(
    ("count", "tally", "after"),
    [
        (2**31 - 2, add(**{CID: 1}), 2**31 - 1),
        (2**31 - 1, add(**{CID: 1}), 2**31),
        (COUNT_MAX, add(**{CID: 1}), COUNT_MAX),
        (COUNT_MAX - 1, add(**{CID: 1}), COUNT_MAX),
        (COUNT_MAX - 2, add(**{CID: 1}), COUNT_MAX - 1),
        (COUNT_MAX, add(**{CID: COUNT_MAX}), COUNT_MAX),
        (1, total(**{CID: COUNT_MAX}), COUNT_MAX),
        (COUNT_MAX, total(**{CID: 3}), 3),
    ],
)
async def test_counts_stop_at_the_largest_exactly(seen: Streams, count: int, tally: Tally, after: int) -> None:
    await seen.put_content(CID, **BAND, count=count)
    entries = await handed(seen, tally)
    await apply(seen, entries, tally)
    assert (await seen.content())["count"] == str(after)


async def test_the_total_of_an_unknown_content_needs_no_base(seen: Streams) -> None:
    entries = await handed(seen, total(**{CID: 40}), add(**{OTHER: 40}))
    await apply(seen, entries, Tally({OTHER: 40}, {CID: 40}))
    assert (await seen.content(CID)).get("absolute") == "1"
    assert "absolute" not in await seen.content(OTHER)
    more = await handed(seen, add(**{CID: 2}))
    await apply(seen, more, add(**{CID: 2}))
    assert await seen.content(CID) == {"count": "42", "at": str(AT), "absolute": "1"}


async def test_the_total_of_a_known_content_is_just_its_count(seen: Streams) -> None:
    await seen.put_content(CID, **BAND, count=1500)
    entries = await handed(seen, total(**{CID: 1600}))
    await apply(seen, entries, total(**{CID: 1600}))
    assert "absolute" not in await seen.content()


async def test_views_of_a_forgotten_content_do_not_keep_it(seen: Streams) -> None:
    """Its review takes the count away again."""
    await seen.put_content(CID, status="forgotten")
    await seen.redis.pexpire(seen.keys().content(CID), 60_000)
    entries = await handed(seen, add(**{CID: 5}))
    assert await apply(seen, entries, add(**{CID: 5})) == COUNTED_NEW
    assert (await seen.content())["status"] == "forgotten"
    assert 0 < await seen.life_ms() <= 60_000


async def test_the_order_of_bands_in_a_batch_is_of_no_account(seen: Streams) -> None:
    """What a mark means is worked out once a batch."""
    bands: list[dict[str, str | int]] = [
        {"level": "bronze", "lo": 0, "hi": 1000}, {}, {"level": "silver", "lo": 1000, "hi": 2000},
        {"absolute": 1}, {"level": "bronze", "status": "moving"}, {"level": "bronze", "lo": 0, "hi": 1001},
    ]  # fmt: skip
    cids = cids_of(P, 3 * len(bands), PARTITIONS)
    for n, cid in enumerate(cids):
        await seen.put_content(cid, count=999, **bands[n % len(bands)])
    entries = await handed(seen, add(**dict.fromkeys(cids, 1)))
    assert (await apply(seen, entries, add(**dict.fromkeys(cids, 1)))).outcome == "counted"
    due = [n in {0, 1, 3} for n in range(len(bands))] * 3
    assert [cid in await seen.reviews() for cid in cids] == due
    for n, cid in enumerate(cids):
        assert {**await seen.content(cid)} == {
            **{name: str(value) for name, value in bands[n % len(bands)].items()}, "count": "1000", "at": str(AT),
        }  # fmt: skip


async def test_an_entry_without_sums_is_just_acknowledged(seen: Streams) -> None:
    entries = await handed(seen, Tally.empty())
    assert await apply(seen, entries, Tally.empty()) == COUNTED
    assert (await seen.entries("views"), await seen.pending("views"), await seen.reviews()) == ([], {}, {})


async def test_thousands_of_contents_are_counted_in_one_call(seen: Streams) -> None:
    """The script does not look whether a cid is of its partition; here they need not be."""
    tally = Tally({f"x{n}": n for n in range(4000)}, {f"y{n}": n for n in range(1001)})
    entries = await handed(seen, tally)
    assert await apply(seen, entries, tally) == Tallied("counted", reviews=5001)
    held = await seen.redis.hgetall(seen.keys().counts)
    assert held == {f"x{n}".encode(): f"{n} {AT}".encode() for n in range(4000)} | {
        f"y{n}".encode(): f"{n} {AT} =".encode() for n in range(1001)
    }
    assert await seen.redis.zcard(seen.keys().review) == 5001


async def test_a_restarted_server_has_forgotten_the_script_and_counts_once(seen: Streams) -> None:
    for expected in ("1", "2"):
        entries = await handed(seen, add(**{CID: 1}))
        await seen.redis.script_flush()
        await apply(seen, entries, add(**{CID: 1}))
        assert (await seen.content())["count"] == expected
