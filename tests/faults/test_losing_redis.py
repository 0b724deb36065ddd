"""Redis killed, stalled, emptied, set back, full: nothing answered with 2xx is lost, and no last copy is removed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence

from tests.faults.clients import stream_views
from tests.faults.house import House, cpu_s, until
from tests.faults.proxy import Proxy, script
from tests.faults.servers import Servers
from tests.oracle import World


def assert_rest(world: World, cids: Sequence[str]) -> None:
    """Each on the level for what Redis counts, where it counts anything."""
    for cid in cids:
        if cid in world.states:
            assert world.level_for(int(world.states[cid]["count"])) == world.rows[cid][0], cid


async def test_redis_killed_under_load_loses_no_answered_view(house: House, servers: Servers) -> None:
    """Fails without the marker in publish.lua (twice), or with `appendonly no` in the server's configuration (lost)."""
    cids = await house.contents(20)
    load = asyncio.create_task(stream_views(house, cids, 4, "kill"))
    for _ in range(2):
        await asyncio.sleep(0.8)
        await asyncio.to_thread(servers.kill_redis)
        await asyncio.sleep(0.4)
        await asyncio.to_thread(servers.start_redis)
    await load
    await house.judge()


async def test_services_wait_for_redis_without_spinning_and_ingest_takes_nothing_in(
    house: House, servers: Servers
) -> None:
    cids = await house.contents(3)
    assert await house.view(dict.fromkeys(cids, 600)) == 202
    await house.judge()
    await asyncio.to_thread(servers.kill_redis)
    try:
        await until(house.unready, "somebody is ready without Redis")
        assert await house.view(dict.fromkeys(cids, 600)) == 503
        services = house.running
        used = [cpu_s(service) for service in services]
        lines = [service.log.read_text().count("\n") for service in services]
        for _ in range(5):
            assert await house.view(dict.fromkeys(cids, 600)) == 503
        await asyncio.sleep(3)
        for service, before_s, before in zip(services, used, lines, strict=True):
            assert service.process.poll() is None, f"{service.name} has ended"
            assert cpu_s(service) - before_s < 0.6, f"{service.name} spins"
            assert service.log.read_text().count("\n") - before < 20, f"{service.name} fills its log"
    finally:
        await asyncio.to_thread(servers.start_redis)
    await house.stack.ready()
    await house.view_surely(dict.fromkeys(cids, 600), "again")
    await house.judge()


async def test_redis_stalled_during_xadd_takes_the_views_in_once(house: House) -> None:
    """The client gives up and repeats under its key. Fails without the marker in publish.lua."""
    cids = await house.contents(5)
    with Proxy.before(house.stack.redis_url_of("ingest")) as proxy:
        await house.restart("ingest", settings={"RESHELVE_REDIS_URL": proxy.url})
        assert await house.view(dict.fromkeys(cids, 1)) == 202
        trap = proxy.trap(script("publish"), "after", proxy.stall)
        repeating = asyncio.create_task(house.view_surely(dict.fromkeys(cids, 1200), "stalled", timeout_s=1))
        await trap.hit()
        await asyncio.sleep(3)
        proxy.resume()
        assert await repeating > 1
        # The other way round: it is stuck on its way to Redis, and arrives when everybody has given up.
        proxy.trap(script("publish"), "before", proxy.stall)
        repeating = asyncio.create_task(house.view_surely(dict.fromkeys(cids, 30), "stuck", timeout_s=1))
        await asyncio.sleep(3)
        proxy.resume()
        assert await repeating > 1
        world = await house.judge()
        await house.restart("ingest")
    assert {world.states[cid]["count"] for cid in cids} == {"1231"}


async def test_views_that_were_stuck_beyond_their_deadline_are_not_taken_in(house: House) -> None:
    """No key, so the client was told 503; fails without the deadline in publish.lua."""
    cids = await house.contents(2)
    with Proxy.before(house.stack.redis_url_of("ingest")) as proxy:
        settings = {"RESHELVE_REDIS_URL": proxy.url, "RESHELVE_DEADLINE_S": "0.5"}
        await house.restart("ingest", settings=settings)
        assert await house.view(dict.fromkeys(cids, 5)) == 202
        proxy.stall()
        assert await house.view(dict.fromkeys(cids, 1000)) == 503
        await asyncio.sleep(0.5)
        proxy.resume()
        await asyncio.sleep(0.5)
        world = await house.judge()
        await house.restart("ingest")
    assert {world.states[cid]["count"] for cid in cids} == {"5"}


async def test_flushall_costs_counts_but_no_file_and_planning_resumes(house: House) -> None:
    """Fails without the level table's fingerprint in Redis, whose absence puts all that was relocated up for review."""
    cids = await house.contents(30)
    settled, hot = cids[:10], cids[10:]
    assert await house.view(dict.fromkeys(settled, 1500)) == 202
    await house.judge()
    load = asyncio.create_task(stream_views(house, hot, 2, "flush"))
    await asyncio.sleep(1)
    async with house.redis() as redis:
        await redis.flushall()
    await load
    await house.taken_over()
    world = await house.judge(counted=False, copies_allowed=True)
    assert_rest(world, cids)
    assert await house.view(dict.fromkeys(cids, 1000)) == 202
    after = await house.judge(counted=False, copies_allowed=True)
    assert_rest(after, cids)
    # Nothing was relocated since: from the last relocation's count on. The others lost some of what was accepted.
    assert {after.states[cid]["count"] for cid in settled} == {"2500"}
    assert {after.rows[cid][0] for cid in settled} == {"gold"}
    assert all(int(after.states[cid]["count"]) >= 1000 for cid in hot)
    await house.start_over()


async def test_redis_set_back_to_an_older_copy_removes_no_last_copy(house: House, servers: Servers) -> None:
    """The old copy orders moves and retires that were done long ago; some contents are back where they started."""
    cids = await house.contents(24)
    moved, moving = cids[:12], cids[12:]
    await house.restart("recorder", settings={"RESHELVE_RETIRE_GRACE_S": "3"})
    assert await house.view(dict.fromkeys(moved, 1500)) == 202
    await until(lambda: house.waiting("later", len(moved)), "retires wait for their time")
    for service in house.stack.named("mover"):
        assert service.stop() == 0
    assert await house.view(dict.fromkeys(moving, 1500)) == 202
    await until(lambda: house.waiting("moves", len(moving)), "moves wait for a mover")
    data, older = servers.home / "redis" / "data", servers.home / "older"
    await asyncio.to_thread(servers.redis.stop)
    await asyncio.to_thread(shutil.copytree, data, older)
    await asyncio.to_thread(servers.start_redis)
    house.stack.start("mover")
    await house.restart("recorder")
    await house.judge()
    assert await house.total(dict.fromkeys(cids[::2], 0)) == 202
    assert await house.total(dict.fromkeys(cids[1::4], 2500)) == 202
    await house.judge()

    await asyncio.to_thread(servers.redis.stop)
    await asyncio.to_thread(shutil.rmtree, data)
    await asyncio.to_thread(older.rename, data)
    await asyncio.to_thread(servers.start_redis)
    await house.stack.ready()
    world = await house.judge(counted=False, dead_allowed=True, copies_allowed=True)
    assert_rest(world, [cid for cid in cids if cid not in world.dead])
    await house.start_over()


async def test_a_redis_out_of_memory_takes_nothing_in_and_all_goes_on_afterwards(house: House) -> None:
    cids = await house.contents(5)
    assert await house.view(dict.fromkeys(cids, 10)) == 202
    async with house.redis() as redis:
        await redis.config_set("maxmemory", 1)
        try:
            assert await house.view(dict.fromkeys(cids, 2000)) == 503
            assert await house.view(dict.fromkeys(cids, 2000), key="full") == 503
            await asyncio.sleep(1)
        finally:
            await redis.config_set("maxmemory", 0)
    await house.view_surely(dict.fromkeys(cids, 1100), "room again")
    await house.judge()


async def test_a_redis_that_cannot_write_its_disk_takes_nothing_in_and_all_goes_on_afterwards(
    house: House, servers: Servers
) -> None:
    """MISCONF, made for real: the snapshot cannot be put in its place, since a directory stands there."""
    cids = await house.contents(5)
    assert await house.view(dict.fromkeys(cids, 10)) == 202
    await house.judge()
    snapshot = servers.home / "redis" / "data" / "dump.rdb"
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()
    async with house.redis() as redis:
        await redis.config_set("save", "3600 1000000")
        await redis.bgsave()
        await until(lambda: refusing(redis), "the snapshot failed")
        assert await house.view(dict.fromkeys(cids, 2000)) == 503
        await asyncio.sleep(1)
        snapshot.rmdir()
        await redis.config_set("save", "")
        await redis.bgsave()
        await until(lambda: writing(redis), "the snapshot succeeds")
    await house.view_surely(dict.fromkeys(cids, 1100), "disk again")
    await house.judge()


async def refusing(redis: object) -> bool:
    return bool((await redis.info("persistence"))["rdb_last_bgsave_status"] != "ok")  # type: ignore[attr-defined]


async def writing(redis: object) -> bool:
    return not await refusing(redis)
