"""The mover meets failing disks, damage, and people who change files under its hands."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.floor import Floor, send_signal
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
async def test_damaged_copy_is_not_published(floor: Floor, damage: Callable[[Path], None], tmp_path: Path) -> None:
    log = tmp_path / "calls"
    cid = await floor.content()
    mover = await floor.mover(traced(log, "utimensat", stop("utimensat")))
    await floor.send(cid, "silver")
    await stopped(log)
    (part,) = floor.parts()
    damage(part)
    send_signal(mover, signal.SIGCONT)
    world = await floor.judge()
    assert world.rows[cid][0] == "silver"
    assert "copy differs" in mover.log.read_text()


def _change(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _replace(file: Path, data: bytes) -> None:
    new = file.with_name("new")
    new.write_bytes(data)
    new.rename(file)


@pytest.mark.parametrize("act", [_change, _replace])
@pytest.mark.parametrize(("level", "step"), [("silver", READ), ("silver", "utimensat"), ("gold", "linkat")])
async def test_source_that_changes_while_it_is_placed_arrives_as_it_is_then(
    floor: Floor, level: str, step: str, act: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    cid = await floor.content()
    mover = await floor.mover(traced(log, step, stop(step)))
    await floor.send(cid, level)
    await stopped(log)
    floor.files[cid] = os.urandom(2_000_000)
    act(floor.file("bronze", cid), floor.files[cid])
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


@pytest.mark.parametrize("act", [_change, _replace])
@pytest.mark.parametrize("moment", ["placed", "locked"])
async def test_source_that_changes_before_it_is_retired_is_kept(
    floor: Floor, moment: str, act: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    """Both versions stay: the placed one is the content, the other is for an operator to judge."""
    log = tmp_path / "calls"
    cid = await floor.content()
    step = {"placed": "renameat2", "locked": "flock"}[moment]
    mover = await floor.mover(traced(log, step, stop(step)))
    await floor.send(cid, "silver")
    await stopped(log)
    later = os.urandom(2_000_000)
    if moment == "placed":
        (recorder,) = floor.stack.named("recorder")
        send_signal(recorder, signal.SIGSTOP)
        send_signal(mover, signal.SIGCONT)
        await written(mover.log, '"placed"')
        act(floor.file("bronze", cid), later)
        send_signal(recorder, signal.SIGCONT)
    else:
        act(floor.file("bronze", cid), later)
        send_signal(mover, signal.SIGCONT)
    world = await floor.judge(dead_allowed=True)
    assert world.dead == {cid: "source changed"}
    assert floor.file("bronze", cid).read_bytes() == later
