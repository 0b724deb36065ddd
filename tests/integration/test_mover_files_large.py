"""Large files: read ahead in a thread, written and read back past the page cache where the file system can."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from services.mover.beneath import Reason, open_file, open_root
from services.mover.copying import DIRECT_BYTES, Copied, HandedBackError, create_part, digest_of, fill
from services.mover.identity import Entry
from services.mover.streaming import AHEAD_BYTES, CHUNK_BYTES, SPARE_BUFFERS, _spare, go_direct, read_at, write
from shared.errors import RetryError

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

CHUNKS = DIRECT_BYTES // CHUNK_BYTES
BORDERS = sorted(
    {0, 1, 511, 4095, 4096, 4097}
    | {size + more for size in (CHUNK_BYTES, AHEAD_BYTES, DIRECT_BYTES) for more in (-1, 0, 1, 511, 4095, 4096)}
)


def never() -> bool:
    return False


class Moment:
    """A `should_stop` that acts at its n-th call (from 1): each chunk is asked about before it is read."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.calls = 0
        self._at = at
        self._act = act

    def __call__(self) -> bool:
        self.calls += 1
        return self.calls == self._at and self._act() is True


@contextmanager
def _written(directory: Path, content: bytes) -> Iterator[Path]:
    source = directory / "source"
    source.write_bytes(content)
    yield source
    source.unlink()


def _copy(source: Path, target: Path, should_stop: Callable[[], bool] = never) -> Copied:
    with open_root(str(source.parent)) as here, open_root(str(target)) as there:
        part = Entry(there, "part")
        with open_file(Entry(here, source.name)) as opened, create_part(part) as part_fd:
            return fill(opened, part, part_fd, should_stop)


@pytest.mark.parametrize("size", BORDERS)
def test_every_size_arrives_whole(size: int, tmp_path: Path, target: Path) -> None:
    content = os.urandom(size)
    with _written(tmp_path, content) as source:
        copied = _copy(source, target)
    assert copied == ("copy", blake3(content).hexdigest())
    assert (target / "part").read_bytes() == content


def _is_cached(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def test_large_copy_is_not_left_in_the_cache(tmp_path: Path) -> None:
    """So it was read from the device. Seen to fail where it is read back through the cache."""
    with _written(tmp_path, os.urandom(DIRECT_BYTES)) as source:
        if "tmpfs" in subprocess.run(["stat", "-fc", "%T", source], capture_output=True, text=True, check=True).stdout:
            pytest.skip("a tmpfs has nothing but its memory")
        _copy(source, tmp_path)
    assert not _is_cached(tmp_path / "part")


@pytest.mark.parametrize("place", [0, CHUNK_BYTES - 1, CHUNK_BYTES, DIRECT_BYTES // 2, DIRECT_BYTES, DIRECT_BYTES + 99])
def test_flipped_bit_is_found_wherever_it_is(place: int, tmp_path: Path, target: Path) -> None:
    def flip() -> None:
        with (target / "part").open("r+b") as part:
            part.seek(place)
            byte = part.read(1)[0]
            part.seek(place)
            part.write(bytes([byte ^ 16]))

    with _written(tmp_path, os.urandom(DIRECT_BYTES + 100)) as source, pytest.raises(RetryError) as differs:
        _copy(source, target, Moment(CHUNKS + 2, flip))  # before the first chunk is read back
    assert differs.value.reason == Reason.COPY_DIFFERS


@pytest.mark.parametrize("size", [0, 4097, DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 99])
@pytest.mark.parametrize("already", [0, 2])
def test_short_copy_is_found(already: int, size: int, tmp_path: Path, target: Path) -> None:
    """Also where it is cut while it is read back."""
    moment = Moment(CHUNKS + 2 + already, lambda: os.truncate(target / "part", size))
    with _written(tmp_path, os.urandom(DIRECT_BYTES + 100)) as source, pytest.raises(RetryError) as differs:
        _copy(source, target, moment)
    assert differs.value.reason == Reason.COPY_DIFFERS


@pytest.mark.parametrize("size", [0, 3 * CHUNK_BYTES + 5, DIRECT_BYTES])
def test_source_that_is_cut_while_it_is_copied_blames_the_source(size: int, tmp_path: Path, target: Path) -> None:
    with _written(tmp_path, os.urandom(DIRECT_BYTES + 100)) as source, pytest.raises(RetryError) as changed:
        _copy(source, target, Moment(2, lambda: os.truncate(source, size)))
    assert changed.value.reason == Reason.SOURCE_CHANGED


@pytest.mark.parametrize("chunk", [1, 2, CHUNKS, CHUNKS + 2, 2 * CHUNKS])
def test_stop_ends_the_work_before_the_next_chunk(chunk: int, tmp_path: Path, target: Path) -> None:
    moment = Moment(chunk, lambda: True)
    with _written(tmp_path, os.urandom(DIRECT_BYTES + 100)) as source, pytest.raises(HandedBackError):
        _copy(source, target, moment)
    assert moment.calls == chunk


def test_digest_is_that_of_the_first_bytes(tmp_path: Path) -> None:
    content = os.urandom(AHEAD_BYTES + 2 * CHUNK_BYTES)
    sizes = (10, CHUNK_BYTES + 1, AHEAD_BYTES + 1, 2 * len(content))
    with _written(tmp_path, content) as source, open_root(str(tmp_path)) as root, ExitStack() as held:
        opened = held.enter_context(open_file(Entry(root, source.name)))
        found = [digest_of(opened.fd, size, never) for size in sizes]
    assert found == [blake3(content[:size]).hexdigest() for size in sizes]


def test_direct_file_takes_what_is_not_aligned(tmp_path: Path, target: Path) -> None:
    """Through the page cache, from there on."""
    content = os.urandom(3 * CHUNK_BYTES)
    path = target / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        go_direct(fd)
        for begin, end in ((0, 100), (100, CHUNK_BYTES), (CHUNK_BYTES, len(content))):
            write(fd, memoryview(content)[begin:end])
        os.fsync(fd)
        go_direct(fd)
        buffer = memoryview(bytearray(1000))
        assert read_at(fd, buffer, 77) == 1000
        assert buffer == content[77:1077]
    finally:
        os.close(fd)
    assert path.read_bytes() == content


def test_buffers_are_used_again(tmp_path: Path) -> None:
    with _written(tmp_path, os.urandom(DIRECT_BYTES)) as source:
        _copy(source, tmp_path)
        kept = {id(buffer) for buffer in _spare}
        (tmp_path / "part").unlink()
        _copy(source, tmp_path)
    assert {id(buffer) for buffer in _spare} == kept
    assert len(kept) <= SPARE_BUFFERS
