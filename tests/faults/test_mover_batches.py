"""Many small files at a time: what happens to one of a batch concerns it alone, and what happens to all loses none.

The moves wait on their streams before the mover starts, so that it takes them as one batch.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.floor import Floor, ended, send_signal, until
from tests.faults.house import keys_of
from tests.faults.house import until as until_async
from tests.faults.proxy import Proxy, script
from tests.faults.strace import fail, kill, lines, slow, traced, written

_MANY = 24
_SMALL = 4000
_HANDS = {"RESHELVE_MOVER_CONCURRENCY": "64"}
"""The first batch is as large as this."""
_LEASE_MS = 60_000
_METADATA_S = 0.5
"""For all of a batch longer than a service may take to stop."""
_ASKS = script("current")
_PART = re.compile(r"\.reshelve\.[0-9a-f-]+\.\d+")
_KILLED_AT = {
    "silver": ["fchmod 12", "syncfs", "renameat2", "renameat2 12", "fsync target", "unlinkat source", "fsync source"],
    # The first of a batch is linked to a part, which gets its name; then it is known that links work.
    "gold": ["linkat", "renameat2", "linkat 12", "fsync target", "unlinkat source", "fsync source"],
}


async def _contents(floor: Floor, directory: str = "many", number: int = _MANY) -> list[str]:
    return [
        await floor.content(f"{directory}/{floor.begun}.mp4", cid=f"b{floor.begun}", size=_SMALL) for _ in range(number)
    ]


async def _stage(floor: Floor, cids: Sequence[str], level: str) -> None:
    """Their moves wait: no mover runs."""
    for cid in cids:
        await floor.send(cid, level)


async def _all_stand(floor: Floor, number: int) -> None:
    await until_async(lambda: floor.waiting("moves", number), f"{number} moves wait")


@pytest.mark.parametrize("level", ["silver", "gold"])
async def test_one_in_trouble_is_a_dead_letter_and_the_others_are_relocated(floor: Floor, level: str) -> None:
    cids = await _contents(floor)
    elsewhere = (await _contents(floor, "swapped", 1))[0]
    await _stage(floor, [*cids, elsewhere], level)
    await _all_stand(floor, _MANY + 1)
    missing, taken = cids[3], cids[7]
    floor.file("bronze", missing).unlink()
    del floor.files[missing]
    stranger = floor.file(level, taken)
    stranger.parent.mkdir(parents=True, exist_ok=True)
    stranger.write_bytes(b"somebody else's")
    parent = floor.file("bronze", elsewhere).parent
    parent.rename(parent.with_name("hidden"))
    parent.symlink_to("hidden")
    await floor.mover(settings=_HANDS)
    await floor.settle()
    parent.unlink()
    parent.with_name("hidden").rename(parent)
    world = await floor.judge(dead_allowed=True)
    assert world.dead.keys() == {missing, taken, elsewhere}
    assert (world.dead[missing], world.dead[taken]) == ("source missing", "target exists")
    assert stranger.read_bytes() == b"somebody else's"
    assert {world.rows[cid][0] for cid in cids if cid not in world.dead} == {level}
    assert floor.parts() == []


async def test_several_levels_and_directories_share_a_batch(floor: Floor) -> None:
    wanted: dict[str, str] = {}
    for level in ("silver", "gold"):
        for directory in ("a", "a/b", "c"):
            wanted |= dict.fromkeys(await _contents(floor, directory, 5), level)
    for cid, level in wanted.items():
        await floor.send(cid, level)
    await _all_stand(floor, len(wanted))
    await floor.mover(settings=_HANDS)
    world = await floor.judge()
    assert {cid: world.rows[cid][0] for cid in wanted} == wanted
    assert list(floor.paths["bronze"].iterdir()) == [floor.paths["bronze"] / ".reshelve.level"]


async def test_large_file_among_small_ones_does_not_hold_them_up(floor: Floor, tmp_path: Path) -> None:
    """Only a large copy reserves its room."""
    cids, large = await _contents(floor), await floor.content("many/large.mp4", size=4 << 20)
    await _stage(floor, [*cids, large], "silver")
    await _all_stand(floor, _MANY + 1)
    log = tmp_path / "calls"
    await floor.mover(traced(log, "fallocate", slow("fallocate", 8)), settings=_HANDS)
    await until(lambda: not any(floor.file("bronze", cid).exists() for cid in cids), "the small ones are settled", 7)
    assert not floor.file("silver", large).exists()
    world = await floor.judge()
    assert world.rows[large][0] == "silver"


async def test_no_part_is_used_that_a_failed_sync_was_to_make_durable(floor: Floor, tmp_path: Path) -> None:
    """Seen to fail where only the sync is repeated: the kernel tells of lost pages once, then calls them clean."""
    log = tmp_path / "calls"
    cids = await _contents(floor)
    await _stage(floor, cids, "silver")
    await _all_stand(floor, _MANY)
    calls = "syncfs,fsync,openat,renameat2"
    mover = await floor.mover(traced(log, calls, fail("syncfs", "EIO", "1")), settings=_HANDS)
    world = await floor.judge()
    assert {world.rows[cid][0] for cid in cids} == {"silver"}
    assert "fsync failed" in mover.log.read_text()
    found = list(lines(log, *calls.split(",")))
    failed = next(place for place, line in enumerate(found) if "syncfs(" in line and "EIO" in line)
    thrown_away = {name for line in found[:failed] if "O_EXCL" in line for name in _PART.findall(line)}
    assert len(thrown_away) > 1
    assert not [line for line in found[failed + 1 :] if thrown_away & set(_PART.findall(line))]
    assert floor.parts() == []


@pytest.mark.parametrize("side", ["target", "source"])
async def test_failed_sync_of_a_directory_is_told_and_every_file_of_the_batch_tried_again(
    floor: Floor, side: str, tmp_path: Path
) -> None:
    """The source's was seen to fail where the path for one file finds the batch's removals done, and says nothing.

    The target's is told then too: strace counts per thread, so that path's own first fsync fails in each of them.
    """
    cids = await _contents(floor)
    await _stage(floor, cids, "gold")
    await _all_stand(floor, _MANY)
    directory = floor.file("gold" if side == "target" else "bronze", cids[0]).parent
    directory.mkdir(exist_ok=True)
    log = tmp_path / "calls"
    mover = await floor.mover(traced(log, "fsync", fail("fsync", "EIO", "1"), only=directory), settings=_HANDS)
    world = await floor.judge()
    assert {world.rows[cid][0] for cid in cids} == {"gold"}
    assert "INJECTED" in log.read_text()
    assert "fsync failed" in mover.log.read_text()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("level", ["silver", "gold"])
async def test_mover_killed_in_the_middle_of_a_batch(floor: Floor, level: str, tmp_path: Path) -> None:
    for number, step in enumerate(_KILLED_AT[level]):
        cids = await _contents(floor, f"d{number}")
        call, *rest = step.split()
        nth = next((int(word) for word in rest if word.isdigit()), 1)
        sides = {"target": level, "source": "bronze"}
        only = next((floor.file(sides[word], cids[0]).parent for word in rest if word in sides), None)
        await _stage(floor, cids, level)
        await until_async(lambda: floor.waiting("moves", _MANY), "the moves wait")
        log = tmp_path / f"calls-{number}"
        victim = floor.victim(traced(log, call, kill(call, nth), only=only), lease_ms=_LEASE_MS, settings=_HANDS)
        await ended(victim, step)
        assert all(floor.file("bronze", cid).exists() or floor.file(level, cid).exists() for cid in cids), step
        await floor.mover(settings=_HANDS)
        await floor.judge()
        floor.end_movers()
    assert floor.parts() == []


async def test_mover_told_to_stop_in_the_middle_of_a_batch_gives_the_rest_to_another(
    floor: Floor, tmp_path: Path
) -> None:
    """Under a lease of a minute: what was not begun is handed back, not left to run out."""
    log = tmp_path / "calls"
    cids = await _contents(floor)
    await _stage(floor, cids, "silver")
    await _all_stand(floor, _MANY)
    mover = await floor.mover(traced(log, "fchmod", slow("fchmod", _METADATA_S)), lease_ms=_LEASE_MS, settings=_HANDS)
    await written(log, "fchmod(")
    began = time.monotonic()
    send_signal(mover, signal.SIGTERM)
    assert await asyncio.to_thread(mover.process.wait, 30) == 0
    assert time.monotonic() - began < _MANY * _METADATA_S / 2
    await floor.mover(lease_ms=_LEASE_MS, settings=_HANDS)
    world = await floor.judge(timeout_s=_LEASE_MS / 1000 / 2)
    assert {world.rows[cid][0] for cid in cids} == {"silver"}
    assert floor.parts() == []


@pytest.mark.parametrize(
    ("level", "call"), [("silver", "renameat2"), ("silver", "unlinkat"), ("gold", "linkat"), ("gold", "unlinkat")]
)
async def test_stale_attempt_in_a_batch_neither_publishes_nor_removes(
    floor: Floor, level: str, call: str, tmp_path: Path
) -> None:
    """Its token is given away while the mover asks for all; the others of its batch go on.

    The recorder is stopped until all are placed, so that the next question is one about retires.
    """
    log = tmp_path / "calls"
    cids = await _contents(floor)
    await _stage(floor, cids, level)
    await _all_stand(floor, _MANY)
    (recorder,) = floor.stack.named("recorder")
    # Each partition is asked by itself: the token must be one of those that the held question is about.
    partition = keys_of(cids[0])
    asked = [cid for cid in cids if keys_of(cid) == partition]

    def asks(request: bytes) -> bool:
        return _ASKS(request) and partition.content_prefix.encode() in request

    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        settings = {**_HANDS, "RESHELVE_REDIS_URL": proxy.url}
        if call != "unlinkat":
            trap = proxy.trap(asks, "before")
            mover = await floor.mover(traced(log, call), lease_ms=_LEASE_MS, settings=settings)
        else:
            send_signal(recorder, signal.SIGSTOP)
            mover = await floor.mover(traced(log, call), lease_ms=_LEASE_MS, settings=settings)
            await until(lambda: all(floor.file(level, cid).exists() for cid in cids), "all are placed")
            trap = proxy.trap(asks, "before")
            send_signal(recorder, signal.SIGCONT)
        await trap.hit()
        await asyncio.sleep(1)  # another batch may be past its question: by then it is done
        held = [cid for cid in asked if floor.file("bronze", cid).exists()]
        if call != "unlinkat":
            held = [cid for cid in held if not floor.file(level, cid).exists()]
        stale = await _give_away(floor, held, "retiring" if call == "unlinkat" else "moving")
        trap.release()
        await until(lambda: _said(mover.log, "refused", stale), "the stale one is refused")
        if call != "unlinkat":
            assert not floor.file(level, stale).exists()
        else:
            assert floor.file("bronze", stale).exists()
        others = [cid for cid in cids if cid != stale]
        await until(lambda: not any(floor.file("bronze", cid).exists() for cid in others), "the others are settled")
        assert mover.stop() == 0
    await floor.mover(settings=_HANDS)
    world = await floor.judge()
    assert world.rows[stale][0] == level


async def _give_away(floor: Floor, cids: Sequence[str], status: str) -> str:
    """Give a new token to one content that a mover has started; a retire's attempts are counted from 1 again."""
    async with floor.redis() as redis:
        for cid in cids:
            key = keys_of(cid).content(cid)
            if await redis.hmget(key, ("status", "attempt")) == [status.encode(), b"1"]:
                await redis.hincrby(key, "attempt", 1)
                return cid
    pytest.fail("nothing was started")


def _said(log: Path, event: str, cid: str) -> bool:
    return any(f'"{event}"' in line and f'"{cid}"' in line for line in log.read_text().splitlines())
