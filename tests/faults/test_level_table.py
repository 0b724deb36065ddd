"""The level table changed while views come in, over HTTP and by hand: all contents come to rest by the new one.

What rests on `_sweep`: without it, in `LevelTable._check`, contents that get no more views stay where the old table had
them (seen).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import aiohttp
import asyncmy
import pytest

from tests.faults.clients import stream_views
from tests.faults.house import House, until

Ranges = Mapping[str, tuple[int, int]]
Change = Callable[..., Awaitable[None]]

SAMPLE: Ranges = {"bronze": (0, 999), "silver": (1000, 1999), "gold": (2000, 3001)}
WITH_PLATINUM: Ranges = {**SAMPLE, "platinum": (3002, 9000)}
RESTING = {"bronze": 300, "silver": 1700, "gold": 2400}
"""Totals of contents that get no view while the table changes, by their level in the sample table."""


async def over_http(house: House, ranges: Ranges, **directories: str) -> None:
    """`PUT /v1/levels`; each level in the directory of its name, unless another is given."""
    body = [
        {"content_level": name, "min_counts": low, "max_counts": high, "path": path_of(house, name, directories)}
        for name, (low, high) in ranges.items()
    ]
    async with aiohttp.ClientSession() as session, session.put(f"{house.stack.http}/v1/levels", json=body) as answer:
        assert answer.status == 200, await answer.text()


async def by_hand(house: House, ranges: Ranges, **directories: str) -> None:
    """One statement after the other, as one types them: in between the table leaves counts to nobody, or to two."""
    there = {name for (name,) in await house.sql("SELECT content_level FROM level")}
    for name in there - ranges.keys():
        await house.sql(f"DELETE FROM level WHERE content_level = '{name}'")
    for name, (low, high) in ranges.items():
        path = path_of(house, name, directories)
        sql = f"INSERT INTO level VALUES ('{name}', {low}, {high}, '{path}')"
        if name in there:
            columns = f"min_counts = {low}, max_counts = {high}, path = '{path}'"
            sql = f"UPDATE level SET {columns} WHERE content_level = '{name}'"
        await house.sql(sql)
        await asyncio.sleep(0.3)


def path_of(house: House, level: str, directories: Mapping[str, str]) -> str:
    path = house.level_root / directories.get(level, level)
    path.mkdir(exist_ok=True)
    return str(path)


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


async def on_their_way(house: House, number: int) -> list[str]:
    """Contents whose moves wait for a mover, which is stopped; a level on top that is empty still is their target."""
    before = await house.fingerprint()
    await over_http(house, WITH_PLATINUM)
    await house.taken_over(before)
    for mover in house.stack.named("mover"):
        assert mover.stop() == 0
    cids = await house.contents(number)
    assert await house.view(dict.fromkeys(cids, 3500)) == 202
    await until(lambda: house.waiting("moves", number), "moves wait for a mover")
    return cids


@both_ways
async def test_moves_to_a_level_that_is_removed_meanwhile_are_planned_anew(library: House, change: Change) -> None:
    """Seen to fail (dead letters) where `Moving` asks for the allowed roots alone."""
    cids = await on_their_way(library, 6)
    before = await library.fingerprint()
    await change(library, SAMPLE)
    await library.taken_over(before)
    await library.restart("mover")
    world = await library.judge()
    assert {world.rows[cid][0] for cid in cids} == {"gold"}


@both_ways
async def test_moves_to_a_level_that_was_put_elsewhere_meanwhile_go_there(library: House, change: Change) -> None:
    """The mover knows the level's old path. Seen to fail where it does not look again after a second: the files are
    placed where no level is any more, and the recorder buries their moves."""
    before = await library.fingerprint()
    await change(library, WITH_PLATINUM)
    await library.taken_over(before)
    cids = await library.contents(6)
    for total, level in ((3500, "platinum"), (100, "bronze")):
        assert await library.total(dict.fromkeys(cids, total)) == 202
        world = await library.judge()
        assert {world.rows[cid][0] for cid in cids} == {level}
    movers = library.stack.named("mover")
    for mover in movers:
        os.kill(mover.process.pid, signal.SIGSTOP)
    assert await library.total(dict.fromkeys(cids, 3500)) == 202
    await until(lambda: library.waiting("moves", len(cids)), "moves wait for a mover")
    before = await library.fingerprint()
    await change(library, WITH_PLATINUM, platinum="platinum again")
    await library.taken_over(before)
    await asyncio.sleep(1.1)  # within a second of the change the mover may still go by the old path
    for mover in movers:
        os.kill(mover.process.pid, signal.SIGCONT)
    world = await library.judge()
    assert {world.rows[cid][0] for cid in cids} == {"platinum"}
    assert {file.stem for file in (library.level_root / "platinum again").glob("*.mp4")} == set(cids)
    assert list((library.level_root / "platinum").glob("*.mp4")) == []


async def test_a_path_that_a_mover_may_not_touch_is_a_dead_letter_also_when_its_level_is_gone(library: House) -> None:
    cids = await on_their_way(library, 3)
    before = await library.fingerprint()
    await over_http(library, SAMPLE)
    await library.taken_over(before)
    roots = ":".join(str(library.level_root / name) for name in SAMPLE)
    await library.restart("mover", settings={"RESHELVE_MOVER_ROOTS": roots})
    world = await library.judge(dead_allowed=True)
    assert world.dead == dict.fromkeys(cids, "root not allowed")
    await library.restart("mover")


async def test_a_mover_works_while_the_ranges_do_not_join(library: House) -> None:
    """As in the midst of changes by hand. Seen to fail (it ends by an error) where it reads the ranges too."""
    for mover in library.stack.named("mover"):
        assert mover.stop() == 0
    cids = await library.contents(6)
    assert await library.view(dict.fromkeys(cids, 1500)) == 202
    await until(lambda: library.waiting("moves", len(cids)), "moves wait for a mover")
    await library.sql("UPDATE level SET max_counts = 900 WHERE content_level = 'bronze'")
    (mover,) = await library.restart("mover")
    await until(lambda: library.waiting("moves", 0), "all is placed")
    assert mover.process.poll() is None
    await library.sql("UPDATE level SET max_counts = 999 WHERE content_level = 'bronze'")
    world = await library.judge()
    assert {world.rows[cid][0] for cid in cids} == {"silver"}
