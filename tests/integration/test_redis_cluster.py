"""A real Redis Cluster through our client: redirections, half-moved slots, a master that is away, reads that block."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, TryAgainError

from cli.migrate import migrate
from shared.keys import META
from shared.messages import Tally
from shared.redis_client import connect, is_down, servers
from shared.state.contents import Contents
from shared.state.mending import Mending
from shared.state.scripts import Scripts
from shared.state.views import Batch, Part, TakenPartlyError, Views
from tests.cli_running import reshelve
from tests.conftest import run_in_thread
from tests.consumers import consuming
from tests.redis_nodes import Node, RedisNodes
from tests.samples import cids_of
from tests.streams import PARTITIONS, Streams

P = 2
MANY = [f"{cid}" for cid in cids_of(P, 40)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNodes]:
    with RedisNodes.running(tmp_path_factory.mktemp("nodes")) as running:
        yield running


@pytest.fixture
async def scripts(nodes: RedisNodes) -> AsyncIterator[Scripts]:
    await asyncio.to_thread(nodes.empty)
    redis = connect(nodes.url("operator"))
    try:
        yield Scripts(redis, PARTITIONS)
    finally:
        await redis.aclose()


@pytest.fixture
def seen(scripts: Scripts) -> Streams:
    return Streams(scripts)


def elsewhere(nodes: RedisNodes, key: str) -> Node:
    master = nodes.master_of(key)
    return next(node for node in nodes.nodes if node.is_master and node is not master)


async def test_many_commands_at_once_find_each_key_while_its_slot_is_half_moved(
    nodes: RedisNodes, seen: Streams
) -> None:
    """Fails where a key that has moved is asked for without ASKING."""
    for cid in MANY:
        await seen.put_content(cid, status="idle", count=7)
    key = seen.keys(P).review
    target = elsewhere(nodes, key)
    slot, source = nodes.begin_to_move(key, target)
    try:
        nodes.migrate([seen.keys(P).content(cid) for cid in MANY[:20]], source, target)
        for _ in range(3):
            found = await asyncio.gather(*(seen.redis.hget(seen.keys(P).content(cid), "status") for cid in MANY))
            assert found == [b"idle"] * len(MANY)
        assert [state.count for state in await Contents(seen.scripts).read(MANY)] == [7] * len(MANY)
        with pytest.raises(TryAgainError) as refused:
            await Contents(seen.scripts).touch(MANY)
        assert is_down(refused.value), "a script whose keys lie on two masters must be repeated, not given up"
    finally:
        nodes.migrate([seen.keys(P).counts, *(seen.keys(P).content(cid) for cid in MANY[20:])], source, target)
        nodes.end_to_move(slot, target)
    assert await Contents(seen.scripts).touch(MANY) == len(MANY)


async def test_a_client_that_has_not_heard_of_a_moved_slot_is_redirected_once(nodes: RedisNodes, seen: Streams) -> None:
    await seen.put_content(MANY[0], version=1)
    nodes.move_slot(seen.keys(P).review, elsewhere(nodes, seen.keys(P).review))
    await asyncio.gather(*(seen.redis.hincrby(seen.keys(P).content(MANY[0]), "version", 1) for _ in range(50)))
    assert (await seen.content(MANY[0]))["version"] == "51"


async def test_a_command_that_names_no_key_of_ours_is_refused(scripts: Scripts) -> None:
    for name, *arguments in (["PING"], ["TIME"], ["SCAN", 0], ["HGET", "other", "field"], ["SCRIPT LOAD", "return 1"]):
        with pytest.raises(ValueError, match="names no key of ours"):
            await scripts.redis.execute_command(name, *arguments)  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="no MULTI across slots"):
        scripts.redis.pipeline()


async def test_all_contents_are_found_over_all_masters(seen: Streams) -> None:
    cids = {cid for p in range(PARTITIONS) for cid in cids_of(p, 5)}
    for cid in cids:
        await seen.put_content(cid, status="idle", count=1)
    assert {cid async for page in Mending(seen.scripts).known() for cid in page} == cids
    assert len(await servers(seen.redis)) == 3


async def test_views_whose_partitions_are_partly_away_are_taken_in_once_when_repeated(
    nodes: RedisNodes, seen: Streams
) -> None:
    """Fails without the markers (twice), or where the failure of one partition hides that others took theirs in."""
    packed = {p: Tally({cids_of(p, 1)[0]: 5}, {}).pack() for p in range(PARTITIONS)}
    parts = {p: [Part("m", 600_000, packed[p])] for p in packed}
    batch = Batch("b", 600_000, packed)
    views = Views(seen.scripts)
    await seen.redis.hget(META, "partitions")  # the map of the slots is known from here on
    away = nodes.master_of(seen.keys(P).stream("views"))
    there = {p for p in parts if nodes.master_of(seen.keys(p).stream("views")) is not away}
    assert 0 < len(there) < len(parts)
    await asyncio.to_thread(away.kill)
    with pytest.raises(TakenPartlyError) as partly:
        await views.publish(parts, batch)
    assert is_down(partly.value.__cause__ or partly.value)
    with pytest.raises(RedisError):
        await views.publish({P: parts[P]})
    assert await repeated(views, parts, batch) == 2 * (len(parts) - len(there))
    assert await views.publish(parts, batch) == 0
    for p in parts:
        assert len(await seen.entries("views", p)) == 1
    await asyncio.to_thread(away.start)
    await asyncio.to_thread(nodes.wait_until_well)


async def repeated(views: Views, parts: dict[int, list[Part]], batch: Batch) -> int:
    """Until a replica has taken over."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return await views.publish(parts, batch)
        except (TakenPartlyError, RedisError):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_an_entry_ends_the_wait_at_once_and_none_is_lost_by_it(nodes: RedisNodes, seen: Streams) -> None:
    """Each partition is waited on by a read of its own. Fails where an entry waits for the other reads to end."""
    async with consuming(seen.scripts, nodes.url("operator")) as consumer:
        await consumer.take(4)
        waits = []
        for n in range(20):
            taking = asyncio.create_task(consumer.take(4))
            await asyncio.sleep(0.02)
            partition, began = n % PARTITIONS, time.monotonic()
            await seen.add_raw("moves", ["name", str(n)], partition)
            entries = await taking
            waits.append(time.monotonic() - began)
            while not any(entry.fields[b"name"] == str(n).encode() for entry in entries):
                entries += await consumer.take(4)
        assert sorted(waits)[10] < 0.2, f"an entry waits for {sorted(waits)[10]:.3f} s"
        assert consumer.held == 20
        await consumer.leave()
    assert [await seen.pending("moves", p) for p in range(PARTITIONS)] == await handed_back(seen)


async def handed_back(seen: Streams) -> list[dict[bytes, str]]:
    """All entries are there, and stale: another may take them at once."""
    found = []
    for p in range(PARTITIONS):
        idle = await seen.idle_ms("moves", p)
        assert len(idle) == 5
        assert min(idle.values()) >= 30_000
        found.append(await seen.pending("moves", p))
    return found


async def test_entries_that_arrive_while_the_consumer_leaves_are_handed_back(nodes: RedisNodes, seen: Streams) -> None:
    """Reads that still wait when one of them ended the take. Fails where leaving does not wait for them."""
    async with consuming(seen.scripts, nodes.url("operator")) as consumer:
        await consumer.take(4)  # the groups are there
        taking = asyncio.create_task(consumer.take(4))
        await asyncio.sleep(0.1)
        await seen.add_raw("moves", ["name", "first"], 0)
        assert [entry.fields[b"name"] for entry in await taking] == [b"first"]
        for p in range(1, PARTITIONS):
            await seen.add_raw("moves", ["name", "later"], p)
        await consumer.leave()
    idle_ms = [idle for p in range(PARTITIONS) for idle in (await seen.idle_ms("moves", p)).values()]
    assert len(idle_ms) > 1, "no read was under way"
    assert min(idle_ms) >= 30_000, "in nobody's hands until the lease runs out"


def test_the_command_works_on_a_cluster(nodes: RedisNodes, bare_database: str, tmp_path: Path) -> None:
    nodes.empty()
    run_in_thread(migrate(bare_database, tmp_path / "levels"))
    run_in_thread(bury_something(nodes.url("operator")))
    urls = {"RESHELVE_REDIS_URL": nodes.url("operator"), "RESHELVE_MYSQL_URL": bare_database}
    status = reshelve("status", "--json", at=tmp_path, **urls)
    assert status.returncode == 0, status.stderr
    assert orjson.loads(status.stdout)["dead_letters"] == 1
    listed = reshelve("dead", "list", "--json", at=tmp_path, **urls)
    assert "undecodable" in listed.stdout, listed.stderr
    for command in (["audit"], ["explain", MANY[0]]):
        done = reshelve(*command, at=tmp_path, **urls)
        assert done.returncode in {0, 1}, done.stderr
        assert "Redis refuses" not in done.stderr
        assert "does not answer" not in done.stderr
        assert nodes.passwords["operator"] not in done.stdout + done.stderr
    assert nodes.denials() == []


async def bury_something(url: str) -> None:
    redis: Redis = connect(url)
    try:
        seen = Streams(Scripts(redis, 8))
        fields = {"origin": "moves", "reason": "undecodable", "detail": "x", "attempts": "1", "died_at": "1"}
        await seen.redis.xadd(seen.keys(3).dead, fields | {"entry_id": "1-1", "f:name": "x"})
    finally:
        await redis.aclose()
