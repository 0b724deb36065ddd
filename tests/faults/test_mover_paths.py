"""Names and directories that mean harm: hostile names, swapped parents, two levels that are one directory."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.disk import may_mount
from tests.faults.floor import Floor, send_signal
from tests.faults.strace import READ, stop, stopped, traced

NAMES = [
    "-rf",
    "--/-- --",
    "line\nbreak.mp4",
    "{}",
    "%s %(cid)s %00",
    'it\'s "quoted" `id` $(id)',
    "\\x00\\",
    "ü/日本/\N{PILE OF POO}.mp4",
    "e\u0301 and \u00e9",
    "\u202etxt.exe",
    "*?[a-z].mp4",
    "tab\tand\x7f",
    " leading",
    "a" * 255,
    "é" * 127 + "x/" + "b" * 255,
    "; DROP TABLE contents; --",
    ".hidden",
    "reshelve.0",
]
CIDS = ["..", ".", "-", "--", ":", "::", "a" * 64, "_", "A", "a", "0", "00"]


@pytest.mark.parametrize("level", ["silver", "gold"])
async def test_hostile_names_go_all_the_way_and_back(floor: Floor, level: str) -> None:
    cids = [
        await floor.content(name, cid=cid, size=100)
        for name, cid in zip(NAMES, (*CIDS, *(f"h{n}" for n in range(len(NAMES)))), strict=False)
    ]
    await floor.mover()
    for there in (level, "bronze"):
        for cid in cids:
            await floor.send(cid, there)
        world = await floor.judge()
        assert {where for where, _ in world.rows.values()} == {there}


@pytest.mark.parametrize("side", ["bronze", "silver"])
async def test_parent_swapped_for_a_link_in_mid_move_leads_nowhere(floor: Floor, side: str, tmp_path: Path) -> None:
    """Nothing is written, read or removed behind the link, and the content's bytes are still there."""
    log, outside = tmp_path / "calls", tmp_path / "outside"
    cid = await floor.content()
    outside.mkdir()
    decoy = outside / floor.file(side, cid).name
    if side == "bronze":
        decoy.write_bytes(floor.files[cid])
    mover = await floor.mover(traced(log, READ, stop(READ)))
    await floor.send(cid, "silver")
    await stopped(log)
    parent = floor.file(side, cid).parent
    aside = parent.with_name("aside")
    parent.rename(aside)
    parent.symlink_to(outside)
    send_signal(mover, signal.SIGCONT)
    data = floor.files[cid]
    world = await floor.settle()
    assert world.dead == {cid: "escape from the root"}
    assert [file.name for file in outside.iterdir()] == ([decoy.name] if side == "bronze" else [])
    kept = aside / decoy.name if side == "bronze" else floor.file("bronze", cid)
    assert kept.read_bytes() == data
    assert floor.parts() == []
    parent.unlink()


@contextmanager
def _twin(floor: Floor, kind: str, where: Path) -> Iterator[None]:
    """Bronze under a second path; a mount is a mount of its own, where that is permitted."""
    bronze = floor.paths["bronze"]
    if kind == "link":
        where.symlink_to(bronze)
        yield
        return
    where.mkdir()
    subprocess.run(["mount", "--bind", bronze, where], check=True)
    try:
        yield
    finally:
        floor.end_movers()
        subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("kind", ["link", *(["mount"] if may_mount() else [])])
async def test_one_directory_under_two_levels_loses_nothing(floor: Floor, kind: str, tmp_path: Path) -> None:
    twin, gold = tmp_path / "twin", floor.paths["gold"]
    with _twin(floor, kind, twin):
        cid = await floor.content()
        await floor.mover()
        await floor.set_path("gold", twin)
        try:
            await floor.send(cid, "gold")
            floor.counts.clear()
            world = await floor.judge(dead_allowed=True)
            assert world.dead == {cid: "levels share a directory"}
            assert floor.file("bronze", cid).read_bytes() == floor.files[cid]
            assert floor.parts() == []
        finally:
            floor.end_movers()
            await floor.set_path("gold", gold)


async def test_same_inode_on_both_levels_becomes_one_file(floor: Floor) -> None:
    cid = await floor.content()
    target = floor.file("gold", cid)
    target.parent.mkdir(parents=True)
    target.hardlink_to(floor.file("bronze", cid))
    await floor.mover()
    await floor.send(cid, "gold")
    world = await floor.judge()
    assert world.rows[cid][0] == "gold"
    assert target.stat().st_nlink == 1
