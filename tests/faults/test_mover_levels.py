"""A level that is away, read-only or full: its work waits and costs no content anything, the other levels' goes on."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import orjson
import pytest

from tests.cli_running import environment
from tests.faults.disk import Disk, may_mount
from tests.faults.floor import Floor
from tests.faults.house import PARTITIONS, until
from tests.faults.strace import written
from tests.stack import Service

_ATTEMPTS = 2
_SMALL = 100_000
"""A copy that is met by a full disk when it is written, and not before."""


@pytest.fixture
async def disk(floor: Floor, tmp_path: Path) -> AsyncIterator[Disk]:
    """Silver's, and nothing else is on it."""
    usual = floor.paths["silver"]
    with Disk.prepared(tmp_path) as own:
        await floor.set_path("silver", own.path)
        floor.paths["silver"] = own.path
        try:
            yield own
        finally:
            floor.end_movers()
            own.mend()
            await floor.forget()
            floor.paths["silver"] = usual
            await floor.set_path("silver", usual)


async def _metric(mover: Service, level: str) -> bool:
    return f'reshelve_breaker_open{{level="{level}"}} 1.0' in await mover.exposition()


async def _in_status(floor: Floor, at: Path) -> set[str]:
    """The levels of which `reshelve status` says that they keep failing."""
    urls = {"RESHELVE_REDIS_URL": floor.redis_url, "RESHELVE_MYSQL_URL": floor.mysql_url}
    settings = {**urls, "RESHELVE_PARTITIONS": str(PARTITIONS)}
    status = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "status", "--json"), cwd=at, env=environment(**settings), stdout=PIPE
    )
    said, _ = await status.communicate()
    assert status.returncode == 0, said
    return {one["level"] for one in orjson.loads(said)["breakers"]}


async def _breaker_shows(floor: Floor, mover: Service, at: Path, *, shown: bool) -> None:
    """Returns when metric and status say of silver, and of no other level, that its breaker is open, or none is."""

    async def both() -> bool:
        levels = await _in_status(floor, at)
        metric = [level for level in floor.paths if await _metric(mover, level)]
        return levels == set(metric) == ({"silver"} if shown else set())

    await until(both, f"the breaker is {'open' if shown else 'closed'}", 30)


async def _sent(floor: Floor, cids: Iterable[str], level: str) -> None:
    for cid in cids:
        await floor.send(cid, level)


async def _rest_on(floor: Floor, cids: Iterable[str], level: str) -> None:
    """Returns when these are settled there, whatever waits elsewhere."""

    async def settled() -> bool:
        world = await floor.look()
        return all((world.rows[c][0], world.states[c].get("status")) == (level, "idle") for c in cids)

    await until(settled, f"{cids} rest on {level}", 30)


async def _tried_beyond_the_limit(floor: Floor, cids: Iterable[str]) -> None:
    async def tried() -> bool:
        states = (await floor.look()).states
        return all(int(states[cid].get("attempt", 0)) > _ATTEMPTS for cid in cids)

    await until(tried, "each was started more often than attempts are allowed", 40)


@pytest.mark.timeout(240)
async def test_moves_of_an_unmounted_level_wait_until_it_is_mounted_again(
    floor: Floor, disk: Disk, tmp_path: Path
) -> None:
    """Without the right to mount, silver's directory is moved aside instead, and an empty one stands in its place.

    One attempt is all that each has. Seen to fail without asking for the level's marker (the breaker never opens), and
    where a level that is away costs an attempt (not one is started often enough).
    """
    mover = await floor.mover(settings={"RESHELVE_MAX_ATTEMPTS": "1"})
    outward = [await floor.content() for _ in range(3)]
    await _sent(floor, outward, "silver")
    await floor.judge()
    disk.away()
    inward, others = [[await floor.content() for _ in range(3)] for _ in range(2)]
    await _sent(floor, inward, "silver")
    await _sent(floor, outward, "gold")
    await _breaker_shows(floor, mover, tmp_path, shown=True)
    await _sent(floor, others, "gold")
    await _rest_on(floor, others, "gold")
    await _tried_beyond_the_limit(floor, inward + outward)
    assert (await floor.look()).dead == {}
    assert list(disk.path.iterdir()) == []
    disk.back()
    world = await floor.judge()
    assert {world.rows[cid][0] for cid in inward} == {"silver"}
    assert {world.rows[cid][0] for cid in outward} == {"gold"}
    await _breaker_shows(floor, mover, tmp_path, shown=False)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["read-only", *(["full"] if may_mount() else [])])
async def test_breaker_of_a_level_opens_and_closes_while_others_flow(
    floor: Floor, disk: Disk, fault: str, tmp_path: Path
) -> None:
    """What stands on a full level can leave it meanwhile, and that makes no difference to what cannot go in.

    Seen to fail with a breaker that never opens (neither metric nor status ever shows it), and with one that nobody
    asks (what goes there is tried again and again, on a level that is known to fail).
    """
    mover = await floor.mover(settings={"RESHELVE_MAX_ATTEMPTS": str(_ATTEMPTS)})
    outward = [await floor.content(size=_SMALL) for _ in range(2)]
    await _sent(floor, outward, "silver")
    await floor.judge()
    disk.fill() if fault == "full" else disk.read_only()
    inward, others = [[await floor.content(size=_SMALL) for _ in range(4)] for _ in range(2)]
    await _sent(floor, inward, "silver")
    await _breaker_shows(floor, mover, tmp_path, shown=True)
    await written(mover.log, "silver keeps failing")  # put off untried
    await _sent(floor, others, "gold")
    await _rest_on(floor, others, "gold")
    if fault == "full":
        # Before room is made by these, and so nothing is proven about it.
        await _sent(floor, outward[:1], "gold")
        await until(lambda: _has_left(floor, outward[0]), "a content leaves the full level", 30)
    assert floor.parts() == []
    disk.make_room() if fault == "full" else disk.writable()
    world = await floor.judge()
    assert {world.rows[cid][0] for cid in inward} == {"silver"}
    await _breaker_shows(floor, mover, tmp_path, shown=False)


async def _has_left(floor: Floor, cid: str) -> bool:
    return (await floor.look()).rows[cid][0] == "gold" and not floor.file("silver", cid).exists()
