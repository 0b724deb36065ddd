"""The mover meets failing disks, damage, and people who change files under its hands."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.floor import Floor, send_signal
from tests.faults.proxy import Proxy, script
from tests.faults.strace import READ, fail, lines, stop, stopped, traced, written

_PART = re.compile(r"/(\.reshelve\.[0-9a-f-]+\.\d+)")


def parts_of(calls: list[str]) -> Counter[str]:
    """How often each part is in these calls."""
    return Counter(found[1] for line in calls if (found := _PART.search(line)))


@pytest.mark.parametrize(
    ("level", "call", "error"),
    [
        ("silver", "fallocate", "ENOSPC"),
        ("silver", READ, "EIO"),
        ("silver", "fsync", "ENOSPC"),
        ("silver", "fsync", "EIO"),
        ("silver", "renameat2", "EIO"),
        ("gold", "fsync", "EIO"),
        ("gold", "linkat", "ENOSPC"),
    ],
)
async def test_copy_is_thrown_away_when_the_disk_fails_and_made_anew(
    floor: Floor, level: str, call: str, error: str, tmp_path: Path
) -> None:
    """Each part is fsynced once at most: after a failure the kernel may call the lost pages clean."""
    log = tmp_path / "calls"
    cid = await floor.content()
    mover = await floor.mover(traced(log, f"{call},fsync", fail(call, error, "1..2")))
    await floor.send(cid, level)
    world = await floor.judge()
    assert world.rows[cid][0] == level
    assert "INJECTED" in log.read_text()
    assert "postponed" in mover.log.read_text()
    assert floor.parts() == []
    assert set(parts_of(list(lines(log, "fsync"))).values()) <= {1}


def _flip(part: Path) -> None:
    with part.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 4]))


def _cut(part: Path) -> None:
    os.truncate(part, part.stat().st_size - 1)


@pytest.mark.parametrize("damage", [_flip, _cut])
@pytest.mark.parametrize("moment", ["utimensat", "fadvise64 2"])
async def test_damaged_copy_is_not_published(
    floor: Floor, moment: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """Before its fsync, and between that and the reading back: the source was the first to be told how it is read."""
    call, _, nth = moment.partition(" ")
    log = tmp_path / "calls"
    cid = await floor.content()
    mover = await floor.mover(traced(log, f"{call},renameat2", stop(call, int(nth or 1))))
    await floor.send(cid, "silver")
    await stopped(log)
    (part,) = floor.parts()
    damage(part)
    send_signal(mover, signal.SIGCONT)
    world = await floor.judge()
    assert world.rows[cid][0] == "silver"
    assert "copy differs" in mover.log.read_text()
    published = "".join(lines(log, "renameat2"))
    assert part.name not in published
    assert part.name.removesuffix(".1") + ".2" in published


def _change(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _replace(file: Path, data: bytes) -> None:
    new = file.with_name("new")
    new.write_bytes(data)
    new.rename(file)


def _grow(file: Path, data: bytes) -> None:
    with file.open("ab") as longer:
        longer.write(data)


def _shorten(file: Path, _data: bytes) -> None:
    os.truncate(file, file.stat().st_size - 600_000)


@pytest.mark.parametrize("act", [_change, _replace, _grow, _shorten])
@pytest.mark.parametrize(("level", "step"), [("silver", READ), ("silver", "utimensat"), ("gold", "linkat")])
async def test_source_that_changes_while_it_is_placed_arrives_as_it_is_then(
    floor: Floor, level: str, step: str, act: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    cid = await floor.content()
    mover = await floor.mover(traced(log, step, stop(step)))
    await floor.send(cid, level)
    await stopped(log)
    source = floor.file("bronze", cid)
    act(source, os.urandom(2_000_000))
    floor.files[cid] = source.read_bytes()
    send_signal(mover, signal.SIGCONT)
    world = await floor.judge()
    assert world.rows[cid][0] == level


@pytest.mark.parametrize(("level", "step"), [("silver", READ), ("gold", "linkat")])
async def test_source_that_is_removed_while_it_is_placed_is_a_dead_letter(
    floor: Floor, level: str, step: str, tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    cid = await floor.content()
    mover = await floor.mover(traced(log, step, stop(step)))
    await floor.send(cid, level)
    await stopped(log)
    floor.file("bronze", cid).unlink()
    send_signal(mover, signal.SIGCONT)
    del floor.files[cid]
    world = await floor.judge(dead_allowed=True)
    assert world.dead == {cid: "source missing"}
    assert not floor.file(level, cid).exists()
    assert floor.parts() == []


@asynccontextmanager
async def _meddled(
    floor: Floor, cid: str, level: str, moment: str, *, act: Callable[[], None], log: Path
) -> AsyncIterator[None]:
    """Something happens to the source before it is retired: right after placing, or under the retire's lock.

    The mover goes on with it in the block.
    """
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        if moment == "locked":
            await floor.mover(settings={"RESHELVE_REDIS_URL": proxy.url})
            # Both times under a lock: before it publishes, before it unlinks.
            asked = proxy.trap(script("current"), "after", nth=2)
            await floor.send(cid, level)
            await asked.hit()
            act()
            asked.release()
        else:
            await _placed_and_stopped(floor, cid, level, act, log)
        yield


async def _placed_and_stopped(floor: Floor, cid: str, level: str, act: Callable[[], None], log: Path) -> None:
    mover = await floor.mover(traced(log, "renameat2", stop("renameat2")))
    await floor.send(cid, level)
    await stopped(log)
    (recorder,) = floor.stack.named("recorder")
    send_signal(recorder, signal.SIGSTOP)
    try:
        send_signal(mover, signal.SIGCONT)
        await written(mover.log, '"placed"')
        act()
    finally:
        send_signal(recorder, signal.SIGCONT)


@pytest.mark.parametrize(("level", "act"), [("silver", _change), ("silver", _replace), ("gold", _replace)])
@pytest.mark.parametrize("moment", ["placed", "locked"])
async def test_source_that_changes_before_it_is_retired_is_kept(
    floor: Floor, moment: str, level: str, act: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    """Both versions stay: the placed one is the content, the other is for an operator to judge."""
    cid, later = await floor.content(), os.urandom(2_000_000)
    source = floor.file("bronze", cid)
    async with _meddled(floor, cid, level, moment, act=lambda: act(source, later), log=tmp_path / "calls"):
        world = await floor.judge(dead_allowed=True)
    assert world.dead == {cid: "source changed"}
    assert source.read_bytes() == later


@pytest.mark.parametrize("level", ["silver", "gold"])
@pytest.mark.parametrize("moment", ["placed", "locked"])
async def test_source_that_is_removed_before_it_is_retired_is_retired(
    floor: Floor, moment: str, level: str, tmp_path: Path
) -> None:
    """Somebody else did it: the placed copy is there, and nothing is left to do."""
    cid = await floor.content()
    async with _meddled(floor, cid, level, moment, act=floor.file("bronze", cid).unlink, log=tmp_path / "calls"):
        world = await floor.judge()
    assert world.rows[cid][0] == level


@pytest.mark.parametrize("moment", ["placed", "locked"])
async def test_link_that_changes_before_its_source_is_retired_changed_on_both_levels(
    floor: Floor, moment: str, tmp_path: Path
) -> None:
    """One file under two names: its later bytes are the content."""
    cid, later = await floor.content(), os.urandom(2_000_000)
    source = floor.file("bronze", cid)
    async with _meddled(floor, cid, "gold", moment, act=lambda: _change(source, later), log=tmp_path / "calls"):
        floor.files[cid] = later
        world = await floor.judge()
    assert world.rows[cid][0] == "gold"
