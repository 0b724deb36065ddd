"""The whole system on a Redis Cluster, while slots are moved and masters change, judged by the oracle.

Each service logs in as its own user, with the rights that deploy/redis/users.acl gives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.keys import PartitionKeys
from tests.faults.clients import stream_views
from tests.faults.house import PARTITION_KEYS, SETTINGS, House, until
from tests.faults.test_losing_redis import assert_rest
from tests.redis_nodes import Node, RedisNodes
from tests.stack import SERVICES, Stack


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNodes]:
    with RedisNodes.running(tmp_path_factory.mktemp("nodes")) as running:
        yield running
        assert running.denials() == [], "users.acl lacks a right that a service needs on a cluster"


@pytest.fixture
async def house(nodes: RedisNodes, database: str, level_root: Path, tmp_path: Path) -> AsyncIterator[House]:
    """All four services run on an empty cluster, two movers and two planners; none ends by itself."""
    await asyncio.to_thread(nodes.empty)
    stack = Stack(nodes.url(), database, tmp_path, SETTINGS, redis_urls={name: nodes.url(name) for name in SERVICES})
    try:
        stack.start(*SERVICES, "planner", "mover")
        await stack.ready()
        house = House(stack, level_root)
        yield house
        assert len(house.running) == len(SERVICES) + 2, "a service has ended by itself"
        codes = stack.stop()
        assert codes == {name: [0] * len(ended) for name, ended in codes.items()}
        assert stack.errors() == []
    finally:
        stack.stop()


async def test_moved_slots_and_masters_that_hand_over_under_load_lose_nothing(house: House, nodes: RedisNodes) -> None:
    """Fails where users.acl does not allow ASKING, or where TRYAGAIN counts as an error of the work."""
    cids = await house.contents(40)
    load = asyncio.create_task(stream_views(house, cids, 8, "exact"))
    await asyncio.sleep(1)
    for keys in PARTITION_KEYS:
        target = elsewhere(nodes, keys)
        assert await asyncio.to_thread(nodes.move_slot, keys.review, target, 0.02) > 0
        assert nodes.master_of(keys.review) is target
    for keys in PARTITION_KEYS[:2]:
        before = nodes.master_of(keys.review)
        after = await asyncio.to_thread(nodes.hand_over, before)
        assert nodes.master_of(keys.review) is after is not before
    assert not load.done(), "the load had ended before the masters changed"
    await load
    world = await house.judge()
    assert len(world.relocations) >= len(cids), "too few views for a relocation of each"


async def test_a_master_killed_under_load_costs_at_most_its_last_moments(house: House, nodes: RedisNodes) -> None:
    """What its replica had not yet got is lost, as docs/guarantees.md says; no file is, and all comes to rest."""
    cids = await house.contents(40)
    load = asyncio.create_task(stream_views(house, cids, 5, "kill"))
    await asyncio.sleep(1)
    killed = nodes.master_of(PARTITION_KEYS[0].review)
    await asyncio.to_thread(killed.kill)
    await until(lambda: asyncio.to_thread(lambda: nodes.master_of(PARTITION_KEYS[0].review) is not killed), "failover")
    await load
    await asyncio.to_thread(killed.start)
    await asyncio.to_thread(nodes.wait_until_well)
    await house.view_surely(dict.fromkeys(cids, 1), "afterwards")
    world = await house.judge(counted=False, copies_allowed=True)
    assert_rest(world, cids)
    assert {cid for cid in cids if cid in world.states} == set(cids)


def elsewhere(nodes: RedisNodes, keys: PartitionKeys) -> Node:
    """A master that has not got the partition."""
    master = nodes.master_of(keys.review)
    return next(node for node in nodes.nodes if node.is_master and node is not master)
