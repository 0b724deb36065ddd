"""The level table changed while views come in, over HTTP and by hand: all contents come to rest by the new one.

What rests on `_sweep`: contents that get no more views would stay where the old table had them without it, in
`LevelTable._check`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import aiohttp
import asyncmy
import pytest

from tests.faults.clients import stream_views
from tests.faults.house import House, until

Ranges = Mapping[str, tuple[int, int]]
Change = Callable[[House, Ranges], Awaitable[None]]

SAMPLE: Ranges = {"bronze": (0, 999), "silver": (1000, 1999), "gold": (2000, 3001)}
RESTING = {"bronze": 300, "silver": 1700, "gold": 2400}
"""Totals of contents that get no view while the table changes, by their level in the sample table."""


async def put(house: House, ranges: Ranges) -> int:
    """`PUT /v1/levels`; the status."""
    body = [
        {"content_level": name, "min_counts": low, "max_counts": high, "path": str(house.level_root / name)}
        for name, (low, high) in ranges.items()
    ]
    async with aiohttp.ClientSession() as session, session.put(f"{house.stack.http}/v1/levels", json=body) as answer:
        return answer.status


async def over_http(house: House, ranges: Ranges) -> None:
    assert await put(house, ranges) == 200


async def by_hand(house: House, ranges: Ranges) -> None:
    """One statement after the other, as one types them: in between the table leaves counts to nobody, or to two."""
    there = {name for (name,) in await house.sql("SELECT content_level FROM level")}
    for name in there - ranges.keys():
        await house.sql(f"DELETE FROM level WHERE content_level = '{name}'")
    for name, (low, high) in ranges.items():
        if name in there:
            sql = f"UPDATE level SET min_counts = {low}, max_counts = {high} WHERE content_level = '{name}'"
        else:
            sql = f"INSERT INTO level VALUES ('{name}', {low}, {high}, '{house.level_root / name}')"
        await house.sql(sql)
        await asyncio.sleep(0.3)


both_ways = pytest.mark.parametrize("change", [over_http, by_hand])


@pytest.fixture
async def library(house: House) -> AsyncIterator[House]:
    """Contents at rest on every level, by the sample table, which is there again afterwards."""
    for count in RESTING.values():
        assert await house.total(dict.fromkeys(await house.contents(5), count)) == 202
    await house.judge()
    yield house
    await house.start_over()
    before = await house.fingerprint()
    if set(await house.sql("SELECT content_level, min_counts, max_counts FROM level")) != {
        (name, *ends) for name, ends in SAMPLE.items()
    }:
        await over_http(house, SAMPLE)
        await house.taken_over(before)


async def changed_under_views(house: House, change: Change, ranges: Ranges) -> None:
    """Views go on before and after; then the oracle, which goes by the table that is in MySQL."""
    before = await house.fingerprint()
    load = asyncio.create_task(
        stream_views(house, await house.contents(12), 3, f"{change.__name__}-{len(house.files)}")
    )
    await asyncio.sleep(0.8)
    await change(house, ranges)
    await load
    await house.taken_over(before)
    world = await house.judge()
    assert {(name, low, high) for name, low, high, _ in world.levels} == {(name, *r) for name, r in ranges.items()}


@both_ways
async def test_contents_come_to_rest_by_ranges_that_changed(library: House, change: Change) -> None:
    await changed_under_views(library, change, {"bronze": (0, 199), "silver": (200, 2499), "gold": (2500, 9000)})


@both_ways
async def test_contents_come_to_rest_on_a_level_that_was_added(library: House, change: Change) -> None:
    """In the midst of the others, and on top."""
    for name in ("copper", "platinum"):
        (library.level_root / name).mkdir(exist_ok=True)
    ranges = {"bronze": (0, 199), "copper": (200, 999), "silver": (1000, 1999), "gold": (2000, 2299)}
    await changed_under_views(library, change, {**ranges, "platinum": (2300, 9000)})
    for name, total in (("copper", RESTING["bronze"]), ("platinum", RESTING["gold"])):
        resting = {f"{cid}.mp4" for cid, count in library.counts.items() if count == total}
        assert len(resting) >= 5
        assert {path.name for path in (library.level_root / name).glob("*.mp4")} >= resting


@both_ways
async def test_contents_leave_a_level_that_is_removed(library: House, change: Change) -> None:
    """It can go once nothing is on it: its range is put out of reach first, and what was on it moves out."""
    without = {"bronze": (0, 999), "silver": (1000, 9000)}
    with pytest.raises((AssertionError, asyncmy.errors.IntegrityError)):
        await change(library, without)
    await changed_under_views(library, change, {**without, "gold": (9001, 9999)})
    await changed_under_views(library, change, without)
    assert list((library.level_root / "gold").glob("*.mp4")) == []


async def test_moves_to_a_level_that_is_removed_meanwhile_are_dead_letters_and_lose_nothing(library: House) -> None:
    """Nothing is on it yet, so it can go. Files stay where MySQL names them; without their letters they are planned."""
    before = await library.fingerprint()
    await over_http(library, {**SAMPLE, "platinum": (3002, 9000)})
    await library.taken_over(before)
    for mover in library.stack.named("mover"):
        assert mover.stop() == 0
    cids = await library.contents(6)
    assert await library.view(dict.fromkeys(cids, 3500)) == 202
    await until(lambda: library.waiting("moves", len(cids)), "moves wait for a mover")
    before = await library.fingerprint()
    await over_http(library, SAMPLE)
    await library.taken_over(before)
    await library.restart("mover")
    world = await library.judge(dead_allowed=True)
    assert world.dead == dict.fromkeys(cids, "root not allowed")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{library.stack.http}/v1/dead") as answer:
            letters = [letter["id"] for letter in (await answer.json())["items"]]
        for letter in letters:
            async with session.delete(f"{library.stack.http}/v1/dead/{letter}?why=the+level+is+gone") as answer:
                assert answer.status == 204, await answer.text()
    assert await library.view(dict.fromkeys(cids, 1)) == 202
    world = await library.judge()
    assert {world.rows[cid][0] for cid in cids} == {"gold"}
