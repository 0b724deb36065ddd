"""What benchmarks stage once is there each time that they measure, and what they start ends with it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.backlog import copy_state, resting
from benchmarks.relocating import forget_all, relocate_all
from benchmarks.stages import Size, Stages
from benchmarks.staging import register
from benchmarks.system import Servers, System

CONTENTS, FILES = 50, 20


def test_a_stage_is_filled_once_and_relocates_again_and_again(tmp_path: Path) -> None:
    filled: list[int] = []
    pids: list[int] = []

    async def fill(system: System, contents: int) -> None:
        filled.append(contents)
        names = [f"idle-{number}" for number in range(contents)]
        await register(system, names)
        await copy_state(system, names, resting(system))

    async def relocate(system: System) -> int:
        directory = tmp_path / f"files-{len(pids)}"
        await system.at([directory / "bronze", directory / "silver"])
        relocated = await relocate_all(system, FILES, 4096, movers=1)
        pids.extend(service.process.pid for service in system.services)
        await forget_all(system, FILES)
        ((tracked,),) = await system.query("SELECT COUNT(*) FROM contents")
        assert len([key async for key in system.scripts.redis.scan_iter("*:content:*")]) == tracked
        assert relocated.files == len(list((directory / "silver").glob("[0-9]*")))
        return int(tracked)

    with Servers.started(tmp_path) as servers, Stages.kept(servers, fill) as stages:
        assert [stages.run(Size(CONTENTS, 2), relocate) for _ in range(2)] == [CONTENTS, CONTENTS]
        assert stages.run(Size(3, 2), relocate) == 3
        assert filled == [CONTENTS, 3]
        assert pids
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
