"""An update from schema 1, which kept counts in the contents' own hashes: none may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.planner.convert import convert
from shared.keys import META, SCHEMA
from shared.messages import Tally
from shared.state.contents import Contents
from shared.state.conversion import Conversion
from shared.state.views import Tallies
from tests.accounts import Accounts
from tests.consumers import Lines, until
from tests.samples import cids_of
from tests.streams import CID, PARTITIONS, P, Streams, connected, now_ms

BAND: dict[str, str | int] = {"level": "silver", "lo": 1000, "hi": 2000, "why": "it belongs there"}
# Fields as schema 1 had them; what `counts` holds afterwards.
OLD: list[tuple[dict[str, str | int], str | None]] = [
    ({"count": 7, "at": 5}, "7 5"),
    ({"count": 7, "at": 5, "absolute": 1}, "7 5 ="),
    ({"count": 2**53 - 1, "at": 5, "status": "idle", "version": 3, **BAND}, "9007199254740991 5 1000 2000"),
    ({"count": 7, "status": "idle", "version": 3, **BAND}, "7 0 1000 2000"),
    ({"count": 7, "at": 5, "status": "idle", "version": 3, "level": "silver"}, "7 5 ="),
    ({"count": 7, "at": 5, "status": "unknown", "version": 3}, "7 5"),
    ({"count": 7, "at": 5, "status": "unknown", "version": 3, "absolute": 1}, "7 5 ="),
    *(
        ({"count": 7, "at": 5, "status": status, "level": "silver", "move_id": "m", "attempt": 2}, "7 5 -")
        for status in ("update", "moving", "done", "retiring", "failed")
    ),
    ({"count": 7, "status": "forgotten"}, None),
    ({"status": "update", "level": "silver", "move_id": "m"}, None),
]
MOVED = ("count", "at", "lo", "hi", "absolute")


@pytest.fixture
async def seen(redis_db: str) -> AsyncIterator[Streams]:
    async with connected(redis_db) as scripts:
        streams = Streams(scripts)
        await streams.redis.hset(META, "schema", "1")
        yield streams


async def put_old(seen: Streams, cid: str, fields: dict[str, str | int]) -> None:
    await seen.redis.hset(seen.scripts.of(cid).content(cid), mapping=fields)


async def converted(seen: Streams) -> int:
    return await Conversion(seen.scripts).run(asyncio.Event())


@pytest.mark.parametrize(("fields", "held"), OLD)
async def test_each_state_of_the_old_layout_keeps_its_meaning(
    seen: Streams, fields: dict[str, str | int], held: str | None
) -> None:
    await put_old(seen, CID, fields)
    assert await converted(seen) == int(bool(fields.keys() & set(MOVED)))
    keys = seen.scripts.of(CID)
    assert await seen.redis.hget(keys.counts, CID) == (None if held is None else held.encode())
    own = {name.decode(): value.decode() for name, value in (await seen.redis.hgetall(keys.content(CID))).items()}
    assert own == {name: str(value) for name, value in fields.items() if name not in MOVED}
    assert await seen.redis.hget(META, "schema") == SCHEMA.encode()


async def test_an_unknown_content_whose_life_was_measured_is_kept_from_now_on(seen: Streams) -> None:
    await put_old(seen, CID, {"count": 7, "at": 5, "status": "unknown", "version": 3})
    await seen.redis.pexpire(seen.keys().content(CID), 60_000)
    await converted(seen)
    assert await seen.life_ms() == -1
    assert abs(int((await seen.content())["since"]) - now_ms()) < 5000


async def test_counts_of_every_partition_are_moved_once(seen: Streams) -> None:
    cids = [cid for p in range(PARTITIONS) for cid in cids_of(p, 700)]
    for n, cid in enumerate(cids):
        await put_old(seen, cid, {"count": n, "at": 5, "status": "idle", "level": "silver"})
    assert await converted(seen) == len(cids)
    assert [state.count for state in await Contents(seen.scripts).read(cids)] == list(range(len(cids)))
    before = await seen.everything()
    assert await converted(seen) == 0
    assert await seen.everything() == before


async def test_who_dies_in_the_midst_leaves_the_rest_to_the_next(seen: Streams) -> None:
    """Each call of the script is a whole; schema 1 stays until all are done."""
    one, two = cids_of(P, 2, PARTITIONS)
    for cid in (one, two):
        await put_old(seen, cid, {"count": 7, "at": 5, "absolute": 1})
    keys = seen.keys()
    assert await seen.scripts.call("convert", [keys.counts, keys.content(one)], [one]) == 1
    assert await Conversion(seen.scripts).is_due()
    assert await converted(seen) == 1
    assert [state.count for state in await Contents(seen.scripts).read([one, two])] == [7, 7]
    assert not await Conversion(seen.scripts).is_due()


async def test_two_planners_may_convert_at_once(seen: Streams) -> None:
    cids = cids_of(P, 1500, PARTITIONS)
    for cid in cids:
        await put_old(seen, cid, {"count": 7, "at": 5, "absolute": 1})
    assert sum(await asyncio.gather(converted(seen), converted(seen))) == len(cids)
    assert {state.count for state in await Contents(seen.scripts).read(cids)} == {7}


async def test_stopped_in_the_midst_it_stays_due(seen: Streams) -> None:
    await put_old(seen, CID, {"count": 7})
    stop = asyncio.Event()
    stop.set()
    assert await Conversion(seen.scripts).run(stop) == 0
    assert await Conversion(seen.scripts).is_due()


async def test_views_go_on_from_the_old_count(seen: Streams) -> None:
    await put_old(seen, CID, {"count": 1999, "at": 5, "status": "idle", **BAND})
    await converted(seen)
    await seen.make_groups()
    await seen.add("views", Tally({CID: 1}, {}))
    (entry,) = await seen.deliver("views")
    tallied = await Tallies(seen.scripts).apply(P, [entry.entry_id], Tally({CID: 1}, {}), 9)
    assert (tallied.reviews, (await seen.content())["count"]) == (1, "2000")


async def test_a_planner_waits_until_those_of_the_older_version_have_stopped(seen: Streams) -> None:
    """They would count on where no one looks any more. Fails where they are not waited for."""
    await put_old(seen, CID, {"count": 7})
    await seen.make_groups()
    await seen.deliver("views", "older")
    lines, stop = Lines(), asyncio.Event()
    waiting = asyncio.create_task(convert(Conversion(seen.scripts), stop, lines.log))

    async def told() -> bool:
        return bool(lines.named("waiting for the planners of the older version to stop"))

    await until(told)
    assert await Conversion(seen.scripts).is_due()
    for keys in seen.scripts.partitions:
        await seen.redis.xgroup_delconsumer(keys.stream("views"), "planner", "older")
    await waiting
    assert (await seen.content())["count"] == "7"
    assert not await Conversion(seen.scripts).is_due()


async def test_the_planners_own_account_may_convert(seen: Streams, accounts: Accounts) -> None:
    for status in ("idle", "unknown", "forgotten"):
        await put_old(seen, status, {"count": 7, "at": 5, "status": status})
    await seen.redis.pexpire(seen.scripts.of("unknown").content("unknown"), 60_000)
    await seen.make_groups()
    async with connected(accounts.redis_urls["planner"]) as scripts:
        await convert(Conversion(scripts), asyncio.Event(), Lines().log)
    assert not await Conversion(seen.scripts).is_due()
    assert (await seen.content("idle"))["count"] == "7"


async def test_nothing_is_looked_through_where_the_schema_is_ours(seen: Streams) -> None:
    await seen.redis.hset(META, "schema", SCHEMA)
    await put_old(seen, CID, {"count": 7})
    await convert(Conversion(seen.scripts), asyncio.Event(), Lines().log)
    assert await seen.redis.hgetall(seen.keys().content(CID)) == {b"count": b"7"}
