"""`reshelve audit` of a system that works, and of a large one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from shared.catalog import Connections, Registry
from tests.audit_world import World, at_rest
from tests.cli_running import environment
from tests.conftest import run_in_thread
from tests.stack import SERVICES, Stack
from tests.streams import PARTITIONS

_CONTENTS = 60
_LARGE = 20_000
_PATIENCE_S = 90
_MEASURED = """
import atexit, resource, sys
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))
from cli.main import app
app(prog_name="reshelve")
"""


async def _flip(stack: Stack, stop: asyncio.Event) -> None:
    """Send every content from level to level, for ever."""
    async with aiohttp.ClientSession() as session:
        turn = 0
        while not stop.is_set():
            turn += 1
            views = [{"cid": f"c{n}", "count": (200, 1200, 2200)[(n + turn) % 3]} for n in range(_CONTENTS)]
            async with session.post(f"{stack.http}/v1/views", json=views) as answer:
                assert answer.status == 202
            await asyncio.sleep(0.5)


@pytest.fixture
async def world(
    redis_db: str,
    database: str,
    level_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> AsyncIterator[World]:
    async with at_rest(redis_db, database, level_root, monkeypatch, capsys) as made:
        yield made


async def test_a_working_system_gives_no_false_finding(world: World, redis_db: str, tmp_path: Path) -> None:
    """With the first look's findings reported as they are, dozens are false."""
    stack, stop = Stack(redis_db, world.mysql_url, tmp_path, {"RESHELVE_PARTITIONS": str(PARTITIONS)}), asyncio.Event()
    for n in range(_CONTENTS):
        await world.settle(f"c{n}")
    try:
        stack.start(*SERVICES)
        await stack.ready()
        flipping = asyncio.create_task(_flip(stack, stop))
        began, seen, moved = time.monotonic(), 0, 0
        while seen < 3 or moved < 2 * _CONTENTS:
            assert time.monotonic() - began < _PATIENCE_S
            audited = await world.audit(min_age_s=600)
            assert (audited.code, audited.findings, audited.error) == (0, [], "")
            seen += 1
            (((moved,),),) = await world.execute("SELECT COUNT(*) FROM relocations")
        stop.set()
        await flipping
    finally:
        stack.stop()


def _fill(mysql_url: str, bronze: Path) -> None:
    """Contents in a few hundred directories."""
    for n in range(_LARGE):
        file = bronze / f"{n % 300}/{n}"
        if n < 300:
            file.parent.mkdir()
        file.touch()

    async def register() -> None:
        connections = Connections(mysql_url)
        names = [(f"{n:06}", f"{n % 300}/{n}") for n in range(_LARGE)]
        for start in range(0, _LARGE, 5000):
            assert await Registry(connections).register_many(names[start : start + 5000], "bronze") == []
        await connections.close()

    run_in_thread(register())


def _measured(redis_url: str, mysql_url: str, at: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds, peak MiB, the summary."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, "audit", "--json", "--rate", "1000000"],
        cwd=at,
        env=environment(RESHELVE_REDIS_URL=redis_url, RESHELVE_MYSQL_URL=mysql_url),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began, int(done.stderr.split()[-1]) / 1024, orjson.loads(done.stdout.splitlines()[-1])


def test_twenty_thousand_contents_take_bounded_time_and_memory(
    redis_db: str, database: str, tmp_path: Path, level_root: Path
) -> None:
    """Kept as a list, the rows alone would be some 15 MiB."""
    _, empty_mib, _ = _measured(redis_db, database, tmp_path)
    _fill(database, level_root / "bronze")
    seconds, peak_mib, summary = _measured(redis_db, database, tmp_path)
    assert (summary["contents"], summary["files"], summary["findings"]) == (_LARGE, _LARGE, 0)
    sys.stderr.write(f"{_LARGE} contents: {seconds:.1f} s, {peak_mib:.0f} MiB, without any {empty_mib:.0f} MiB\n")
    assert seconds < 60
    assert peak_mib - empty_mib < 12, "a page is held, not the catalog"
