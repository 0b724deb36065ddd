"""What several files here need of the machine's file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.descriptors import open_descriptors


@pytest.fixture
def no_descriptor_leaks() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture(params=["disk", "ramfs"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on the machine's disk; and one on a file system that has no O_DIRECT."""
    directory = tmp_path / "target"
    directory.mkdir()
    with ExitStack() as held:
        if request.param == "ramfs":
            if os.geteuid() != 0:
                pytest.skip("only root may mount a file system without O_DIRECT")
            subprocess.run(["mount", "-t", "ramfs", "ramfs", directory], check=True)
            held.callback(lambda: subprocess.run(["umount", "-l", directory], check=True))
        yield directory
