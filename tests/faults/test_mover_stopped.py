"""A mover that is stopped past its lease, or cut off from Redis, while another goes on with its work.

It can neither finish, publish over, nor unlink.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults import house
from tests.faults.floor import Floor, send_signal, until
from tests.faults.proxy import Proxy, script
from tests.faults.strace import READ, slow, stop, stopped, traced, written

LEVELS = ("silver", "gold")


async def _settled_on(floor: Floor, cid: str, level: str) -> None:
    """Another mover has done it all."""
    world = await floor.judge()
    assert world.rows[cid][0] == level


async def _there(floor: Floor, cid: str, level: str, source: str = "bronze") -> None:
    """Other movers have brought it there, and settled."""
    await floor.send(cid, level)
    await until(lambda: floor.file(level, cid).exists() and not floor.file(source, cid).exists(), f"{cid} on {level}")
    await _settled_on(floor, cid, level)


async def _first_relocation(floor: Floor) -> None:
    """From now on each script is loaded, and called once for each step, and the levels are marked."""
    await floor.mover()
    await _there(floor, await floor.content(), "gold")
    floor.end_movers()


@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize(("level", "step"), [("silver", READ), ("silver", "utimensat"), ("gold", "linkat")])
async def test_mover_stopped_before_it_publishes_comes_too_late(
    floor: Floor, level: str, step: str, tmp_path: Path, *, returned: bool
) -> None:
    """Where the content has returned, every name is as it was when the mover last looked."""
    log = tmp_path / "calls"
    cid = await floor.content()
    zombie = await floor.mover(traced(log, step, stop(step)))
    await floor.send(cid, level)
    await stopped(log)
    await floor.mover()
    await _there(floor, cid, level)
    if returned:
        await _there(floor, cid, "bronze", level)
    file = floor.file("bronze" if returned else level, cid)
    seen = file.stat().st_ino
    send_signal(zombie, signal.SIGCONT)
    await written(zombie.log, cid)
    assert zombie.stop() == 0
    assert file.stat().st_ino == seen
    assert '"placed"' not in zombie.log.read_text()
    await floor.judge()


@pytest.mark.parametrize("level", LEVELS)
async def test_mover_stopped_before_finish_is_refused(floor: Floor, level: str) -> None:
    cid = await floor.content()
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        zombie = await floor.mover(settings={"RESHELVE_REDIS_URL": proxy.url})
        trap = proxy.trap(script("finish"), "before")
        await floor.send(cid, level)
        await trap.hit()
        send_signal(zombie, signal.SIGSTOP)
        await floor.mover()
        await _settled_on(floor, cid, level)
        seen = floor.file(level, cid).stat()
        trap.release()
        send_signal(zombie, signal.SIGCONT)
        await written(zombie.log, '"refused"')
        assert zombie.stop() == 0
    assert floor.file(level, cid).stat() == seen
    world = await floor.judge()
    assert len(world.relocations) == 1


@pytest.mark.parametrize("level", LEVELS)
async def test_mover_stopped_at_the_start_of_a_retire_removes_nothing_later(floor: Floor, level: str) -> None:
    """Meanwhile the content has come back: what stands under the source's name is the only copy.

    Held several times (the placed copy is gone, MySQL's row, the token): with one of them taken out it still passes.
    """
    await _first_relocation(floor)
    cid = await floor.content()
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        zombie = await floor.mover(settings={"RESHELVE_REDIS_URL": proxy.url})
        trap = proxy.trap(script("start"), "after", nth=2)
        await floor.send(cid, level)
        await trap.hit()
        send_signal(zombie, signal.SIGSTOP)
        await floor.mover()
        await _there(floor, cid, level)
        await _there(floor, cid, "bronze", level)
        trap.release()
        send_signal(zombie, signal.SIGCONT)
        assert zombie.stop() == 0
    await _settled_on(floor, cid, "bronze")


@pytest.mark.parametrize("level", LEVELS)
async def test_mover_stopped_at_the_start_of_a_move_leaves_no_stray_copy(floor: Floor, level: str) -> None:
    """Meanwhile the content has been there and has come back: the file is where it was, the target's name is free.

    Fails without the question for the fencing token before publishing.
    """
    await _first_relocation(floor)
    cid = await floor.content()
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        zombie = await floor.mover(settings={"RESHELVE_REDIS_URL": proxy.url})
        trap = proxy.trap(script("start"), "after")
        await floor.send(cid, level)
        await trap.hit()
        send_signal(zombie, signal.SIGSTOP)
        await floor.mover()
        await _there(floor, cid, level)
        await _there(floor, cid, "bronze", level)
        trap.release()
        send_signal(zombie, signal.SIGCONT)
        # Refused; or, when it was stopped for so long that its question is put again, not even started.
        await written(zombie.log, cid)
        assert zombie.stop() == 0
    assert not floor.file(level, cid).exists()
    await _settled_on(floor, cid, "bronze")


@pytest.mark.parametrize("level", LEVELS)
async def test_nobody_retires_past_a_mover_that_was_stopped_before_it_publishes(floor: Floor, level: str) -> None:
    """It knows that its attempt is current, and the lock keeps that true. Fails without the lock."""
    cid = await floor.content()
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        zombie = await floor.mover(settings={"RESHELVE_REDIS_URL": proxy.url})
        asked = proxy.trap(script("current"), "after")
        await floor.send(cid, level)
        await asked.hit()
        send_signal(zombie, signal.SIGSTOP)
        asked.release()
        other = await floor.mover()
        await written(other.log, "source busy")
        assert (await floor.state(cid))["status"] == "retiring"
        send_signal(zombie, signal.SIGCONT)
        await _settled_on(floor, cid, level)
        assert zombie.stop() == 0
    world = await floor.judge()
    assert len(world.relocations) == 1


@pytest.mark.parametrize("level", LEVELS)
async def test_nobody_goes_on_past_a_mover_that_was_stopped_before_it_unlinks(floor: Floor, level: str) -> None:
    cid = await floor.content()
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        zombie = await floor.mover(settings={"RESHELVE_REDIS_URL": proxy.url})
        asked = proxy.trap(script("current"), "after", nth=2)
        await floor.send(cid, level)
        await asked.hit()
        send_signal(zombie, signal.SIGSTOP)
        asked.release()
        other = await floor.mover()
        await written(other.log, "source busy")
        assert floor.file("bronze", cid).exists()
        assert (await floor.state(cid))["status"] == "retiring"
        send_signal(zombie, signal.SIGCONT)
        await _settled_on(floor, cid, level)
        assert zombie.stop() == 0


async def test_mover_stopped_before_it_locks_a_source_leaves_it_to_a_later_order(floor: Floor, tmp_path: Path) -> None:
    """The content has come back and gone out again, by links to the same inode: its old order fits disk and MySQL.

    The later order has a grace that is not over. Fails without the question to Redis whether the order is current.
    """
    log = tmp_path / "calls"
    await _first_relocation(floor)
    cid = await floor.content()
    source = floor.file("bronze", cid)
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        first = await floor.mover(settings={"RESHELVE_REDIS_URL": proxy.url})
        retiring = proxy.trap(script("start"), "before", nth=2)
        await floor.send(cid, "gold")
        await retiring.hit()
        first.kill()
        retiring.cut()
    # It does nothing but take over the retire, so that the first look into bronze is at the source.
    zombie = await floor.mover(traced(log, "openat", stop("openat"), only=floor.paths["bronze"]))
    await stopped(log)
    await floor.mover()
    await _there(floor, cid, "gold")
    await _there(floor, cid, "bronze", "gold")
    await floor.restart("recorder", settings={"RESHELVE_RETIRE_GRACE_S": "10"})
    await floor.send(cid, "gold")
    await house.until(lambda: floor.waiting("later", 1), "the second retire waits for its time")
    send_signal(zombie, signal.SIGCONT)
    await written(zombie.log, '"refused"')
    assert zombie.stop() == 0
    assert source.exists()
    assert await floor.waiting("later", 1)
    await _settled_on(floor, cid, "gold")
    await floor.restart("recorder")


async def test_two_movers_on_one_command_place_it_once(floor: Floor, tmp_path: Path) -> None:
    """The first is alive and copies slowly, but cannot renew its lease: Redis does not hear from it."""
    log = tmp_path / "calls"
    cid = await floor.content()
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        slowly = traced(log, READ, slow(READ, 1.5))
        first = await floor.mover(slowly, settings={"RESHELVE_REDIS_URL": proxy.url})
        await floor.send(cid, "silver")
        await written(log, "preadv")
        proxy.stall()
        await floor.mover()
        await _settled_on(floor, cid, "silver")
        proxy.resume()
        await written(first.log, cid, 30)
        assert first.stop(30) == 0
    world = await floor.judge()
    assert len(world.relocations) == 1
