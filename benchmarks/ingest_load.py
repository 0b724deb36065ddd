"""The load generator as a process of its own: its answers and its CPU time are not the runner's."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.load import CATALOG
from benchmarks.system import HOST

_WAIT_S = 10.0


@dataclass(frozen=True)
class Load:
    """Answers by status, and what was taken in a second."""

    answers: Mapping[str, int]
    requests_per_s: float
    views: int

    @property
    def views_per_s(self) -> float:
        return self.requests_per_s * self.views


def load(port: int, *, views: int, seconds: float, connections: int = 64, contents: int = CATALOG) -> Load:
    """POST for so many seconds, `views` views of `contents` contents at a time."""
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(port), "--views", str(views)]
    options = ["--connections", str(connections), "--seconds", str(seconds), "--contents", str(contents)]
    said = json.loads(subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout)
    return Load(said["answers"], said["requests_per_s"], views)


def wait_for_port(port: int) -> None:
    """Raises RuntimeError where nobody listens within ten seconds."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nobody listens on port {port}")
