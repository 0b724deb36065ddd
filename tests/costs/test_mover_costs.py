"""What a small file costs in a batch: system calls are counted, since seconds depend on the machine.

Two batches of different sizes are compared, so that what a process or a batch costs by itself drops out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.strace import traced

_FEW, _MORE = 100, 200
# Of the process, not of files: memory, and threads that wait for each other.
_CALLS = "!mmap,munmap,brk,madvise,mremap,mprotect,futex,rt_sigaction,rt_sigprocmask"
_SYNCS = ("fsync", "fdatasync", "syncfs", "sync_file_range")
_EACH = {
    # open, looked at; flock; the name looked at; link; both looked at; close
    "place by link": 8,
    # the same, and for the part: open, write, owner, mode, attributes, times, drop, read ahead, read back, close
    "place by copy": 23,
    # open, fstat; flock; both names looked at twice; unlink; close; and two looks by the script for the order's ids
    "retire": 13,
}


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """On the machine's shared memory, which is a file system of its own."""
    path = Path(tempfile.mkdtemp(prefix="reshelve-costs-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


def _calls(log: Path, what: str, source: Path, target: Path, number: int) -> Counter[str]:
    """By name, those of a process that handles one batch."""
    command = [sys.executable, "-m", "tests.costs.batch_of_files", what, str(source), str(target), str(number)]
    # Without -D strace ends last, and its log is complete.
    through = [word for word in traced(log, _CALLS) if word != "-D"]
    subprocess.run([*through, *command], check=True, cwd=Path(__file__).parents[2])
    return Counter(line.split("(")[0].split()[-1] for line in log.read_text().splitlines() if "(" in line)


def _batch(home: Path, target_home: Path, number: int) -> tuple[Path, Path]:
    source, target = home / f"source-{number}", target_home / f"target-{number}"
    for path in (source, target):
        path.mkdir()
    for name in range(number):
        (source / str(name)).write_bytes(b"x" * 4096)
    return source, target


def _compare(home: Path, target_home: Path, what: str) -> tuple[Counter[str], Counter[str]]:
    """The calls of a smaller and a larger batch."""
    found = []
    for number in (_FEW, _MORE):
        source, target = _batch(home, target_home, number)
        placed = _calls(home / f"place-{number}", "place", source, target, number)
        found.append(placed if what == "place" else _calls(home / f"{what}-{number}", what, source, target, number))
    return found[0], found[1]


def _check(few: Counter[str], more: Counter[str], what: str) -> None:
    each = {name: (more[name] - few[name]) / (_MORE - _FEW) for name in more if more[name] > few[name]}
    assert sum(each.values()) <= _EACH[what], f"{what}: {each}"
    syncs = [sum(calls[name] for name in _SYNCS) for calls in (few, more)]
    assert syncs[0] == syncs[1] <= 2, f"{what}: {syncs} syncs for {_FEW} and {_MORE} files of one directory"


def test_small_file_that_is_linked_costs_few_calls_and_no_sync_of_its_own(tmp_path: Path) -> None:
    _check(*_compare(tmp_path, tmp_path, "place"), "place by link")


def test_small_file_that_is_copied_costs_few_calls_and_no_sync_of_its_own(tmp_path: Path, elsewhere: Path) -> None:
    _check(*_compare(tmp_path, elsewhere, "place"), "place by copy")


@pytest.mark.parametrize("where", ["same file system", "another"])
def test_retire_costs_few_calls_and_no_sync_of_its_own(tmp_path: Path, elsewhere: Path, where: str) -> None:
    _check(*_compare(tmp_path, tmp_path if where == "same file system" else elsewhere, "retire"), "retire")
