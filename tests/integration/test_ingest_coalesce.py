"""Requests that wait at the same moment go out together, once, or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from redis.asyncio import Redis

from cli.private_redis import PrivateRedis
from services.ingest.coalesce import Publisher
from services.ingest.gate import Gate
from services.ingest.payloads import Intake, parse_json
from services.ingest.problems import UnavailableError
from services.ingest.sums import Increments
from shared.levels import COUNT_MAX
from shared.messages import Tally
from shared.redis_client import connect
from shared.state.contents import Contents
from shared.state.scripts import Scripts
from shared.state.views import Views
from tests.ingest_app import entries, taken_in

PARTITIONS = 4


@pytest.fixture
def private(tmp_path: Path) -> Iterator[PrivateRedis]:
    """A Redis that this test may stop, starve and kill."""
    with PrivateRedis.start(tmp_path / "redis") as server:
        yield server


async def scripts_on(url: str) -> AsyncIterator[Scripts]:
    redis = connect(url, timeout_s=0.5)
    yield Scripts(redis, PARTITIONS)
    await redis.aclose()


@pytest.fixture
async def scripts(redis_db: str) -> AsyncIterator[Scripts]:
    async for made in scripts_on(redis_db):
        yield made


@pytest.fixture
async def mortal(private: PrivateRedis) -> AsyncIterator[Scripts]:
    async for made in scripts_on(private.url):
        yield made


async def opened(scripts: Scripts, *, deadline_s: float = 5, pending_limit: int = 1_000_000) -> tuple[Publisher, Gate]:
    log = structlog.get_logger()
    gate = Gate(scripts.redis, Contents(scripts), 1000, log)
    await gate.look()
    publisher = Publisher(
        Views(scripts),
        gate,
        log,
        partitions=PARTITIONS,
        deadline_s=deadline_s,
        pending_limit=pending_limit,
        key_life_s=3600,
    )
    return publisher, gate


def views(n: int) -> Intake:
    return parse_json(b'[{"cid": "%d"}, {"cid": "x", "views": 2}]' % n, PARTITIONS)


async def commands(redis: Redis, name: str) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])


async def test_concurrent_requests_become_one_entry_per_partition(mortal: Scripts) -> None:
    """On a server of our own: its commands are counted."""
    publisher, _ = await opened(mortal)
    await publisher.publish(views(0), 10)
    before = await commands(mortal.redis, "evalsha")
    await asyncio.gather(*(publisher.publish(views(n), 10) for n in range(200)))
    assert await commands(mortal.redis, "evalsha") == before + 1
    for keys in mortal.partitions:
        assert await mortal.redis.xlen(keys.stream("views")) <= 2
    assert len([marker async for marker in mortal.redis.scan_iter("reshelve:*:seen:*")]) == 2
    tally = await taken_in(mortal)
    assert tally.add == {**{str(n): 1 for n in range(200)}, "0": 2, "x": 402}


async def test_marked_requests_share_the_script_and_keep_their_markers(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts)
    before = await commands(scripts.redis, "evalsha")
    await asyncio.gather(*(publisher.publish(views(n % 10), 10, f"ik-{n % 10}") for n in range(30)))
    assert await commands(scripts.redis, "evalsha") == before + 1
    assert (await taken_in(scripts)).add == {**{str(n): 1 for n in range(10)}, "x": 20}


async def test_totals_and_increments_keep_their_order(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts)
    bodies = [b'{"cid": "7", "views": 5}', b'{"cid": "7", "count": 100}', b'{"cid": "7"}']
    await asyncio.gather(*(publisher.publish(parse_json(body, PARTITIONS), 10) for body in bodies))
    assert (await taken_in(scripts)).set == {"7": 101}


async def test_totals_and_unsummed_increments_keep_their_order(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts)

    def increment() -> Intake:
        return Intake(1, increments=Increments(["7"]))

    total = parse_json(b'{"cid": "7", "count": 100}', PARTITIONS)
    await publisher.publish(increment(), 10)
    intakes = (increment(), increment(), total, increment(), views(7), increment())
    await asyncio.gather(*(publisher.publish(intake, 10) for intake in intakes))
    assert (await taken_in(scripts)).set == {"7": 103}


async def test_unsummed_increments_under_a_marker_are_taken_in_once(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts)

    def increments() -> Intake:
        return Intake(2, increments=Increments(["7", "8"], [1, 5]))

    await asyncio.gather(*(publisher.publish(increments(), 10, marker) for marker in ("ik-1", "ik-1", "", "ik-2")))
    assert (await taken_in(scripts)).add == {"7": 3, "8": 15}


async def test_a_sum_beyond_the_largest_count_stops_there(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts)
    intakes = [Intake(1, 0, {0: Tally({"7": COUNT_MAX - 1}, {})}) for _ in range(3)]
    await asyncio.gather(*(publisher.publish(intake, 10) for intake in intakes))
    assert (await taken_in(scripts)).add == {"7": COUNT_MAX}


async def test_what_waits_is_bounded(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts, pending_limit=100)
    results = await asyncio.gather(*(publisher.publish(views(n), 40) for n in range(5)), return_exceptions=True)
    assert [isinstance(result, UnavailableError) for result in results] == [False, False, True, True, True]
    assert (await taken_in(scripts)).add == {"0": 1, "1": 1, "x": 4}
    await publisher.publish(views(9), 100)


async def test_a_restarted_redis_does_not_know_the_script(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts)
    await publisher.publish(views(1), 10)
    await scripts.redis.script_flush()
    await publisher.publish(views(1), 10)
    assert (await taken_in(scripts)).add == {"1": 2, "x": 4}


async def test_a_reply_that_is_lost_does_not_count_twice(private: PrivateRedis, mortal: Scripts) -> None:
    publisher, _ = await opened(mortal)
    await publisher.publish(views(1), 10)
    pid = (await mortal.redis.info("server"))["process_id"]
    os.kill(pid, signal.SIGSTOP)
    sending = asyncio.create_task(publisher.publish(views(2), 10))
    # Longer than an attempt: its command lies in the stopped server's socket while the next one is sent.
    await asyncio.sleep(1.2)
    os.kill(pid, signal.SIGCONT)
    await sending
    assert (await taken_in(mortal)).add == {"1": 1, "2": 1, "x": 4}


async def test_nothing_is_taken_in_after_giving_up(private: PrivateRedis, mortal: Scripts) -> None:
    publisher, gate = await opened(mortal, deadline_s=0.8)
    await publisher.publish(views(1), 10)
    pid = (await mortal.redis.info("server"))["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        loop = asyncio.get_running_loop()
        started = loop.time()
        results = await asyncio.gather(*(publisher.publish(views(n), 10) for n in range(5)), return_exceptions=True)
        assert all(isinstance(result, UnavailableError) for result in results)
        assert loop.time() - started < 2
        with pytest.raises(UnavailableError, match="nothing was taken in"):
            gate.check()
        with pytest.raises(UnavailableError, match="nothing was taken in"):
            await publisher.publish(views(7), 10)
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(0.3)
    assert (await taken_in(mortal)).add == {"1": 1, "x": 2}
    await gate.look()
    await publisher.publish(views(3), 10)
    assert (await taken_in(mortal)).add == {"1": 1, "3": 1, "x": 4}


async def test_a_redis_out_of_memory_refuses_at_once_and_for_all_partitions(mortal: Scripts) -> None:
    publisher, gate = await opened(mortal)
    await mortal.redis.config_set("maxmemory", 1)
    started = asyncio.get_running_loop().time()
    with pytest.raises(UnavailableError, match="refuses writes just now: nothing was taken in"):
        await publisher.publish(parse_json(b'[{"cid": "1"}, {"cid": "2"}, {"cid": "3"}]', PARTITIONS), 10)
    assert asyncio.get_running_loop().time() - started < 1
    assert await entries(mortal) == []
    gate.check()
    await mortal.redis.config_set("maxmemory", 0)
    await publisher.publish(views(1), 10)
    assert (await taken_in(mortal)).add == {"1": 1, "x": 2}


async def test_a_read_only_replica_is_waited_for(mortal: Scripts) -> None:
    publisher, _ = await opened(mortal)
    await mortal.redis.replicaof("127.0.0.1", "1")
    sending = asyncio.create_task(publisher.publish(views(1), 10))
    await asyncio.sleep(0.3)
    await mortal.redis.replicaof("NO", "ONE")
    await sending
    assert (await taken_in(mortal)).add == {"1": 1, "x": 2}


async def test_an_unexpected_error_ends_its_batch_and_not_the_publisher(scripts: Scripts) -> None:
    publisher, _ = await opened(scripts)
    stream = scripts.of("x").stream("views")
    await scripts.redis.set(stream, "no stream")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await publisher.publish(parse_json(b'{"cid": "x"}', PARTITIONS), 10)
    await scripts.redis.delete(stream)
    await publisher.publish(parse_json(b'{"cid": "x"}', PARTITIONS), 10)
    assert (await taken_in(scripts)).add == {"x": 1}
