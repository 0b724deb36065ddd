"""Copies of a batch: in one piece each, from some size on past the page cache and several at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from services.mover import placing
from services.mover.identity import OpenFile
from services.mover.place import Placement
from services.mover.placing import COPIERS, Placing
from services.mover.syncing import sync_files
from services.mover.whole import DIRECT_BYTES, SMALL_BYTES, copy_whole
from tests.costs.batch_of_files import move_of

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

BORDERS = sorted(
    {0, 1, 511, 4095, 4096, 4097}
    | {DIRECT_BYTES + more for more in (-1, 0, 1, 511, 4095, 4096)}
    | {SMALL_BYTES + more for more in (-4096, -4095, -1, 0)}
)


def never() -> bool:
    return False


@pytest.fixture
def source() -> Iterator[Path]:
    """On the machine's shared memory, from which no link leads to a disk."""
    path = Path(tempfile.mkdtemp(prefix="reshelve-batch-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


def _files(source: Path, sizes: Sequence[int]) -> list[bytes]:
    """Named by their place."""
    contents = [os.urandom(size) for size in sizes]
    for number, content in enumerate(contents):
        (source / str(number)).write_bytes(content)
    return contents


def _place(
    source: Path, target: Path, number: int, should_stop: Callable[[], bool] = never
) -> dict[int, Placement | None]:
    """By their numbers, those that a part was made of."""
    with Placing(marked=(), should_stop=should_stop) as batch:
        made = batch.prepare([(move_of(one, str(source), str(target)), 1) for one in range(number)])
        ready = [one for one, is_made in enumerate(made) if is_made]
        return dict(zip(ready, batch.publish([True] * len(ready)), strict=True))


def test_files_of_all_sizes_share_a_batch(source: Path, target: Path) -> None:
    contents = _files(source, [*BORDERS, SMALL_BYTES + 1])
    placed = _place(source, target, len(contents))
    assert list(placed) == list(range(len(BORDERS)))
    for number, placement in placed.items():
        assert placement is not None
        assert placement.digest == blake3(contents[number]).hexdigest()
        assert (target / str(number)).read_bytes() == contents[number]
    assert len(list(target.iterdir())) == len(BORDERS)


@pytest.mark.parametrize("size", [4000, DIRECT_BYTES + 1])
def test_copy_that_reads_back_otherwise_is_thrown_away_alone(
    source: Path, target: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = _files(source, [size] * 3 * COPIERS)

    def damage(fds: Sequence[int]) -> None:
        with (target / ".reshelve.0-2.1").open("r+b") as part:
            part.seek(size // 2)
            part.write(bytes([contents[2][size // 2] ^ 1]))
        sync_files(fds)

    monkeypatch.setattr(placing, "sync_files", damage)
    placed = _place(source, target, len(contents))
    assert placed.keys() == set(range(len(contents))) - {2}
    assert sorted(path.name for path in target.iterdir()) == sorted(map(str, placed))


def test_batch_that_is_stopped_while_it_copies_leaves_no_part(source: Path, target: Path) -> None:
    number = 4 * COPIERS
    _files(source, [DIRECT_BYTES] * number)
    asked = iter(range(10_000))
    placed = _place(source, target, number, lambda: next(asked) >= number + COPIERS)
    assert 0 < len(placed) <= COPIERS
    assert sorted(path.name for path in target.iterdir()) == sorted(map(str, placed))


def test_file_that_shrank_since_it_was_opened_is_left(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = _files(source, [DIRECT_BYTES + 1] * 3)

    def shrink_first(file: OpenFile, part_fd: int) -> str:
        if file.entry.name == "1":
            os.truncate(source / "1", DIRECT_BYTES)
        return copy_whole(file, part_fd)

    monkeypatch.setattr(placing, "copy_whole", shrink_first)
    assert _place(source, target, len(contents)).keys() == {0, 2}
    assert sorted(path.name for path in target.iterdir()) == ["0", "2"]
