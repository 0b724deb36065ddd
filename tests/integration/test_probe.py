"""The health of a container: `python -m cli.probe` asks the service beside it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.consumers import until
from tests.ports import free_port
from tests.stack import Stack


def probe(port: int) -> tuple[int, str]:
    environment = os.environ | {"RESHELVE_METRICS_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-m", "cli.probe"], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    return done.returncode, done.stderr.strip()


async def test_a_ready_service_is_healthy(redis_db: str, database: str, tmp_path: Path) -> None:
    stack = Stack(redis_db, database, tmp_path)
    try:
        (recorder,) = stack.start("recorder")
        await stack.ready()
        assert await asyncio.to_thread(probe, recorder.metrics_port) == (0, "")
    finally:
        stack.stop()


async def test_a_service_without_its_database_is_not_and_says_why(redis_db: str, tmp_path: Path) -> None:
    """Seen to fail with the answer's status left unread."""
    stack = Stack(redis_db, f"mysql://nobody:x@127.0.0.1:{free_port()}/nothing", tmp_path)
    try:
        (recorder,) = stack.start("recorder")

        async def says_why() -> bool:
            code, text = await asyncio.to_thread(probe, recorder.metrics_port)
            return code == 1 and "mysql" in text

        await until(says_why, 30)
    finally:
        stack.stop()


def test_where_no_service_is_there_is_no_health() -> None:
    port = free_port()
    assert probe(port) == (1, f"no service listens on {port}")
