"""MySQL killed, cut off during COMMIT, deadlocked: what was placed is recorded exactly once, as soon as it is back."""

from __future__ import annotations

import asyncio

from tests.faults.house import House, cpu_s, until
from tests.faults.proxy import Proxy
from tests.faults.servers import Servers


async def test_what_was_placed_while_mysql_was_down_is_recorded_once_it_is_back(house: House, servers: Servers) -> None:
    cids = await house.contents(40)
    assert await house.view(dict.fromkeys(cids[:20], 1500)) == 202
    await asyncio.to_thread(servers.kill_mysql)
    try:
        await until(house.unready, "somebody is ready without MySQL")
        # Views need Redis alone.
        assert await house.view(dict.fromkeys(cids[20:], 1500)) == 202
        services = house.running
        used = [cpu_s(service) for service in services]
        lines = [service.log.read_text().count("\n") for service in services]
        await asyncio.sleep(3)
        for service, before_s, before in zip(services, used, lines, strict=True):
            assert service.process.poll() is None, f"{service.name} has ended"
            assert cpu_s(service) - before_s < 0.6, f"{service.name} spins"
            assert service.log.read_text().count("\n") - before < 100, f"{service.name} fills its log"
    finally:
        await asyncio.to_thread(servers.start_mysql)
    await house.stack.ready()
    world = await house.judge()
    assert sum(cid in cids for _, cid, *_ in world.relocations) == len(cids)


async def test_a_connection_cut_during_commit_leaves_the_history_exact(house: House) -> None:
    """MySQL has committed, the recorder does not know. Fails where a committed move is not looked for before it is
    recorded again."""
    cids = await house.contents(8)
    with Proxy.before(house.stack.mysql_url_of("recorder")) as proxy:
        (recorder,) = await house.restart("recorder", settings={"RESHELVE_MYSQL_URL": proxy.url})
        trap = proxy.trap(b"COMMIT", "after")
        assert await house.view(dict.fromkeys(cids, 1500)) == 202
        await trap.hit()
        trap.cut()
        # And once more, before it got there: rolled back.
        lost = proxy.trap(b"COMMIT", "before")
        assert await house.view(dict.fromkeys(cids, 1000)) == 202
        await lost.hit()
        lost.cut()
        world = await house.judge()
        assert recorder.process.poll() is None
        await house.restart("recorder")
    assert {world.rows[cid][0] for cid in cids} == {"gold"}
