"""Relocations on one filesystem, beside task queues that do rename + UPDATE."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Beside, Bound, Row
from benchmarks.relocating import relocate_all
from benchmarks.rivals.fleet import RIVALS, Rival, jobs_per_s
from benchmarks.system import Servers, System, two_cores

_FILES = 20_000
_MOVERS = 2
_SIZE = 4096


def rows(work: Path, scale: float) -> Iterator[Row]:
    """Moves are in, opened by the planner's script; two movers and a recorder place, commit and retire.

    Ours includes the hard link, the fsyncs of both directories, the catalog's transaction with its history, the removal
    of the source, and every state in between; counted from the moment at which the movers, which are ready, may begin
    to the last settled content. A rival's job is a rename and one UPDATE of a bare table, neither fsynced nor fenced;
    counted from the first UPDATE to the last. Both on the same two cores, with the same servers, which fsync every
    write. Not included: the views and reviews before. All files lie in one directory.
    """
    files = max(100, round(_FILES * scale))
    with two_cores(), Servers.started(work) as servers:
        survey = {rival.name: asyncio.run(_theirs(servers, rival, round(files * 0.6))) for rival in RIVALS}
        fastest = max(RIVALS, key=lambda rival: survey[rival.name])
        yield Row(
            name="relocations, 4 KiB, same filesystem",
            unit="relocations/s",
            ours=lambda: asyncio.run(_ours(servers, files)),
            beside=Beside(
                f"{fastest.name} ({fastest.settings})",
                lambda: asyncio.run(_theirs(servers, fastest, round(files * 0.6))),
            ),
            bounds=(Bound("ratio", ">=", 2.0),),
            details={f"{rival.name}: {rival.settings}": survey[rival.name] for rival in RIVALS},
        )


async def _ours(servers: Servers, files: int) -> float:
    directory = Path(tempfile.mkdtemp(dir=servers.work))
    async with System.fresh(servers, [directory / "bronze", directory / "silver"]) as system:
        return (await relocate_all(system, files, _SIZE, movers=_MOVERS)).per_s


async def _theirs(servers: Servers, rival: Rival, jobs: int) -> float:
    directory = Path(tempfile.mkdtemp(dir=servers.work))
    async with System.fresh(servers, [directory / "unused", directory / "unused-either"]) as system:
        return await jobs_per_s(rival, system, directory, jobs)
