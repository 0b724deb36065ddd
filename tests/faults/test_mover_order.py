"""The order of system calls, as strace saw them: durable before it is published, committed before it is removed."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.faults.floor import Floor, ended, send_signal
from tests.faults.strace import READ, fail, kill, lines, traced, written

_CALLS = ("write", "fsync", "fadvise64", "preadv", "preadv2", "linkat", "renameat2", "unlinkat")
_COPY = [
    "link part",  # tried, and refused: it is another filesystem
    *("write part", "fsync part", "drop part", "read part"),
    *("publish", "fsync target", "remove source", "fsync source"),
]
_TRACED = f"{READ}|^write$|fsync|fadvise64|linkat|renameat2|unlinkat$"
_LINK = ["link part", "publish", "fsync target", "remove source", "fsync source"]


def _step(line: str, source: Path, target: Path) -> str:
    """What the call means for this content; an empty text for one that means nothing to it."""
    part, there, here = f"{target.parent}/.reshelve.0", f"<{target.parent}>", f"<{source.parent}>"
    patterns = {
        "write part": rf"write\(\d+<{re.escape(part)}",
        "fsync part": rf"fsync\(\d+<{re.escape(part)}",
        "drop part": rf"fadvise64\(\d+<{re.escape(part)}.* POSIX_FADV_DONTNEED",
        "read part": rf"preadv2?\(\d+<{re.escape(part)}",
        "link part": rf'\blinkat\(.*{re.escape(there)}, "\.reshelve\.0',
        "publish": rf'renameat2\(\d+{re.escape(there)}, "\.reshelve\.0.*RENAME_NOREPLACE',
        "fsync target": rf"fsync\(\d+{re.escape(there)}",
        "remove source": rf'unlinkat\(\d+{re.escape(here)}, "{re.escape(source.name)}", 0',
        "fsync source": rf"fsync\(\d+{re.escape(here)}",
    }
    return next((step for step, pattern in patterns.items() if re.search(pattern, line)), "")


def _steps(log: Path, floor: Floor, level: str, cid: str) -> list[str]:
    """In their order, repetitions in a row as one."""
    found: list[str] = []
    for line in lines(log, *_CALLS):
        step = _step(line, floor.file("bronze", cid), floor.file(level, cid))
        if step and step not in found[-1:]:
            found.append(step)
    return found


@pytest.mark.parametrize(("level", "steps"), [("silver", _COPY), ("gold", _LINK)])
async def test_each_step_is_durable_before_the_next_relies_on_it(
    floor: Floor, level: str, steps: list[str], tmp_path: Path
) -> None:
    """The recorder is stopped until the copy is placed: what comes before the commit is then known.

    A copy is read back from the device, after its fsync and before it gets its name. A link shares the source's inode,
    and with it whatever its writer has made durable; only the name is new.

    Seen to fail without the fsync of the part, without DONTNEED, and without the fsync of directories.
    """
    log = tmp_path / "calls"
    cid = await floor.content()
    mover = await floor.mover(traced(log, _TRACED))
    (recorder,) = floor.stack.named("recorder")
    send_signal(recorder, signal.SIGSTOP)
    try:
        await floor.send(cid, level)
        await written(mover.log, '"placed"')
        before = _steps(log, floor, level, cid)
        assert (await floor.look()).rows[cid][0] == "bronze"
    finally:
        send_signal(recorder, signal.SIGCONT)
    await floor.judge()
    assert before == steps[: steps.index("fsync target") + 1]
    assert _steps(log, floor, level, cid) == steps


@pytest.mark.parametrize("level", ["silver", "gold"])
async def test_name_that_a_killed_mover_gave_is_durable_before_it_is_adopted(
    floor: Floor, level: str, tmp_path: Path
) -> None:
    """The first mover dies between publishing and the directory's fsync. Seen to fail without the one when adopting."""
    log = tmp_path / "calls"
    cid = await floor.content()
    target = floor.file(level, cid)
    victim = await floor.mover(traced(tmp_path / "victim", "fsync", kill("fsync"), only=target.parent))
    await floor.send(cid, level)
    await ended(victim, "the fsync of the target's directory")
    assert target.exists()
    mover = await floor.mover(traced(log, _TRACED))
    await floor.judge()
    assert '"method":"adopt"' in mover.log.read_text()
    assert _steps(log, floor, level, cid) == ["fsync target", "remove source", "fsync source"]


async def _marked(floor: Floor) -> None:
    """Gold is, which takes an fsync of its directory too."""
    await floor.mover()
    await floor.send(await floor.content(), "gold")
    await floor.judge()
    floor.end_movers()


async def test_directory_that_a_killed_mover_made_is_durable_before_anything_is_placed_in_it(
    floor: Floor, tmp_path: Path
) -> None:
    """The first mover dies between mkdir and the fsync above it. Seen to fail where what stands passes for durable."""
    log = tmp_path / "calls"
    await _marked(floor)
    cid = await floor.content()
    target, root = floor.file("gold", cid), re.escape(str(floor.paths["gold"]))
    victim = await floor.mover(traced(tmp_path / "victim", "fsync", kill("fsync"), only=floor.paths["gold"]))
    await floor.send(cid, "gold")
    await ended(victim, "the fsync of the level's directory")
    assert target.parent.exists()
    await floor.mover(traced(log, _TRACED))
    await floor.judge()
    calls = lines(log, "fsync", "renameat2")
    order = [" ".join(re.findall(rf"renameat2|fsync(?=\(\d+<{root}>)", call)) for call in calls]
    assert order.index("fsync") < order.index("renameat2"), calls


async def test_directory_whose_fsync_failed_is_made_anew(floor: Floor, tmp_path: Path) -> None:
    """A second fsync would succeed, though the name may be lost. Seen to fail where the directory is left standing."""
    log = tmp_path / "calls"
    await _marked(floor)
    cid = await floor.content()
    failing = traced(log, "fsync,mkdirat", fail("fsync", "EIO", "1"), only=floor.paths["gold"])
    await floor.mover(failing)
    await floor.send(cid, "gold")
    await floor.judge()
    assert sum(f'"{cid}"' in call for call in lines(log, "mkdirat")) > 1
