"""The README's tour, pasted line by line."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from cli.private_redis import find_redis_server
from tests.ports import free_port

_PROJECT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VOLATILE = re.compile(r"\S*/\.reshelve|\d+ s ago|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*")
_RESHELVE = f"{sys.executable} -m cli"


def _steps() -> list[tuple[str, str]]:
    """Each command block of the tour with the output that follows it."""
    tour = (_PROJECT / "README.md").read_text().split("## A five-minute tour")[1].split("\n## ")[0]
    blocks = _BLOCK.findall(tour)
    return [
        (body, blocks[i + 1][1] if i + 1 < len(blocks) and blocks[i + 1][0] != "sh" else "")
        for i, (kind, body) in enumerate(blocks)
        if kind == "sh"
    ]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[int]:
    """`reshelve up` in an empty directory; the port it answers on."""
    assert find_redis_server() is not None
    port = free_port()
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "cli", "up", "--port", str(port)]
        up = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while "is up" not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield port
        up.terminate()
        assert up.wait(30) == 0
    finally:
        up.kill()
        up.wait()


def test_the_tour_works_when_pasted_line_by_line(running: int, tmp_path: Path) -> None:
    steps = _steps()
    assert len(steps) == 5
    for commands, output in steps:
        script = commands.replace("localhost:8080", f"127.0.0.1:{running}").replace(".venv/bin/reshelve", _RESHELVE)
        done = subprocess.run(
            ["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        shown = _VOLATILE.sub("…", done.stdout).strip()
        wanted = _VOLATILE.sub("…", output).strip()
        if wanted.startswith("{"):
            assert orjson.loads(shown) == orjson.loads(wanted)
        else:
            assert shown.split() == wanted.split()
