"""How long until there is something to work with."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Bound, Row
from benchmarks.rows.ingest import no_files
from benchmarks.system import Servers, System, two_cores

_SERVICES = ("ingest", "planner", "mover", "recorder")
_FILES, _FEWEST_FILES = 200_000, 20_000
_PROMISED = 1_000_000


def rows(work: Path, scale: float) -> Iterator[Row]:
    """A service: from the start of its process to 200 from /readyz (looked at every 20 ms), its servers running.

    import: `reshelve import` of empty files in directories of a thousand, as one command, from a fifth of a million;
    the figure is what a million would take at that pace. Never from fewer than some ten thousand: the command's own
    start takes as long as several thousand files.
    """
    files = max(_FEWEST_FILES, round(_FILES * scale))
    with two_cores(), Servers.started(work) as servers:
        for name in _SERVICES:
            yield Row(
                name=f"{name} ready",
                unit="s",
                ours=lambda name=name: asyncio.run(_ready_s(servers, name)),  # type: ignore[misc]
                beside=None,
                bounds=(Bound("ours", "<=", 1),),
            )
        yield Row(
            name="import of 1,000,000 contents",
            unit="s",
            ours=lambda: asyncio.run(_import_s(servers, files)) * _PROMISED / files,
            beside=None,
            bounds=(Bound("ours", "<=", 180),),
            details={"files": files},
            most_rounds=1,
        )


async def _ready_s(servers: Servers, name: str) -> float:
    paths = no_files(servers)
    for path in paths:
        path.mkdir(exist_ok=True)
    async with System.fresh(servers, paths) as system:
        began = time.perf_counter()
        await system.start(name)
        return time.perf_counter() - began


async def _import_s(servers: Servers, files: int) -> float:
    directory = servers.work / "imported"
    for number in range(files):
        below = directory / str(number // 1000)
        if number % 1000 == 0:
            below.mkdir(parents=True)
        os.close(os.open(below / f"{number}.mp4", os.O_CREAT | os.O_WRONLY, 0o644))
    async with System.fresh(servers, [directory, servers.work / "silver"]) as system:
        environment = {
            **os.environ,
            **system.settings,
            "RESHELVE_REDIS_URL": servers.redis.url,
            "RESHELVE_MYSQL_URL": system.mysql_url,
        }
        began = time.perf_counter()
        command = [sys.executable, "-m", "cli", "import", str(directory)]
        done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
        took = time.perf_counter() - began
        ((rows_there,),) = await system.query("SELECT COUNT(*) FROM contents")
        if done.returncode or rows_there != files:
            raise RuntimeError(f"{rows_there} of {files} were imported: {done.stdout}{done.stderr}"[-2000:])
        return took
