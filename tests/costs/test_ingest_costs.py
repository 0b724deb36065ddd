"""What taking views in costs Redis, in commands: counted, not timed, so that a busy machine cannot hide a regression.

Each bound lies a little above what was reached when it was written. Commands within a script count too: they are
what Redis has to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from tests.ingest_app import Running, running_ingest, taken_in

_CONNECTIONS = 64
_ROUNDS = 20
_NDJSON_VIEWS = 1000


@dataclass(frozen=True)
class Spent:
    """Calls by command, of which ingest's own look at the backlog twice a second is no part."""

    calls: dict[str, int]

    @property
    def scripts(self) -> int:
        return self.calls.get("evalsha", 0)

    @property
    def entries(self) -> int:
        return self.calls.get("xadd", 0)

    @property
    def all(self) -> int:
        return sum(self.calls.values())


_PUBLISHING = ("eval", "evalsha", "multi", "exec", "time", "set", "xadd")


@pytest.fixture
async def ingest(redis_db: str, database: str) -> AsyncIterator[Running]:
    async with running_ingest(redis_db, database) as running:
        await running.ready()
        yield running


async def calls(redis: Redis) -> dict[str, int]:
    stats = await redis.info("commandstats")
    return {name: int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in _PUBLISHING}


async def spent(redis: Redis, work: Callable[[], Awaitable[None]]) -> Spent:
    before = await calls(redis)
    await work()
    after = await calls(redis)
    return Spent({name: after[name] - before[name] for name in _PUBLISHING})


async def test_single_views_share_their_commands(ingest: Running) -> None:
    """64 clients, a view per request: reached 0.03 scripts and 0.25 commands a view; each view alone takes 1 and 4."""

    async def client(number: int) -> None:
        for turn in range(_ROUNDS):
            status, _ = await ingest.post_views(b'{"cid": "c%d"}' % ((number * _ROUNDS + turn) % 97))
            assert status == 202

    async def work() -> None:
        await asyncio.gather(*map(client, range(_CONNECTIONS)))

    cost, views = await spent(ingest.scripts.redis, work), _CONNECTIONS * _ROUNDS
    assert sum((await taken_in(ingest.scripts)).add.values()) == views
    assert cost.scripts <= 0.08 * views, cost
    assert cost.all <= 0.6 * views, cost


async def test_a_large_body_costs_an_entry_per_partition(ingest: Running) -> None:
    """1000 views in a request: one script, one marker, and one entry per partition, whatever the number of views."""
    body = b"\n".join(b'{"cid": "c%d"}' % (n % 97) for n in range(_NDJSON_VIEWS))

    async def work() -> None:
        for _ in range(_ROUNDS):
            assert (await ingest.post_views(body, "application/x-ndjson"))[0] == 202

    cost, partitions = await spent(ingest.scripts.redis, work), len(ingest.scripts.partitions)
    assert sum((await taken_in(ingest.scripts)).add.values()) == _ROUNDS * _NDJSON_VIEWS
    assert cost.scripts == _ROUNDS, cost
    assert cost.entries <= _ROUNDS * partitions, cost
    # The script itself, its look at the clock (another by ingest twice a second), SET, and XADD per partition.
    assert cost.all <= _ROUNDS * (4 + partitions), cost
