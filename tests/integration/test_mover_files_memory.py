"""Large files to a file system in memory: read back in a thread of its own, right behind the writing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from services.mover.beneath import Reason, open_file, open_root
from services.mover.copying import Copied, HandedBackError, create_part, fill
from services.mover.identity import Entry
from services.mover.room import RoomAhead
from services.mover.streaming import AHEAD_BYTES, CHUNK_BYTES
from shared.errors import RetryError

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

CHUNKS = AHEAD_BYTES // CHUNK_BYTES
TAIL = 99
SIZE = AHEAD_BYTES + TAIL


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on the machine's shared memory."""
    path = Path(tempfile.mkdtemp(prefix="reshelve-", dir="/dev/shm"))
    kind = subprocess.run(["stat", "-fc", "%T", path], capture_output=True, text=True, check=True).stdout
    if "tmpfs" in kind:
        yield path
    shutil.rmtree(path)
    if "tmpfs" not in kind:
        pytest.skip("/dev/shm is no tmpfs here")


class Moments:
    """A `should_stop` that acts at the n-th call (from 1) of the thread that writes, or of that which reads back."""

    def __init__(self, *, writing: int = 0, reading_back: int = 0, act: Callable[[], object]) -> None:
        self.calls = {True: 0, False: 0}
        self._at = {False: writing, True: reading_back}
        self._act = act

    def __call__(self) -> bool:
        reads_back = threading.current_thread().name.startswith("read-back")
        self.calls[reads_back] += 1
        return self.calls[reads_back] == self._at[reads_back] and self._act() is True


def _copy(source: Path, target: Path, should_stop: Callable[[], bool] = lambda: False) -> Copied:
    with open_root(str(source.parent)) as here, open_root(str(target)) as there:
        part = Entry(there, "part")
        with open_file(Entry(here, source.name)) as opened, create_part(part) as part_fd:
            return fill(opened, part, part_fd, should_stop)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.parametrize("size", [AHEAD_BYTES + more for more in (-1, 0, 1, 4097, CHUNK_BYTES, CHUNK_BYTES + 1)])
def test_every_size_arrives_whole(size: int, source: Path, memory: Path) -> None:
    content = os.urandom(size)
    source.write_bytes(content)
    assert _copy(source, memory) == ("copy", blake3(content).hexdigest())
    assert (memory / "part").read_bytes() == content


def test_file_with_a_hole_arrives_whole(source: Path, memory: Path) -> None:
    os.truncate(source, 2 * SIZE)
    _copy(source, memory)
    assert (memory / "part").read_bytes() == source.read_bytes()


def test_chunk_is_read_back_while_later_ones_are_not_yet_written(source: Path, memory: Path) -> None:
    read_back = threading.Event()

    def should_stop() -> bool:
        if threading.current_thread().name.startswith("read-back"):
            read_back.set()
        elif moments.calls[False] == CHUNKS:
            assert read_back.wait(10), "nothing is read back before the last chunk is read"
        return moments()

    moments = Moments(act=lambda: False)
    _copy(source, memory, should_stop)
    assert moments.calls == {True: CHUNKS + 1, False: CHUNKS + 1}


def test_room_is_made_ahead_of_what_is_written_and_no_longer_than_the_file(memory: Path) -> None:
    size = 40 * CHUNK_BYTES + TAIL
    with (memory / "part").open("wb") as part:
        room = RoomAhead(part.fileno(), size)

        def made(written: int) -> int:
            while room.step(written):
                pass
            assert os.fstat(part.fileno()).st_size == 0
            return os.fstat(part.fileno()).st_blocks * 512

        first = made(0)
        assert CHUNK_BYTES < first < size // 4
        assert made(CHUNK_BYTES) == first + CHUNK_BYTES
        # What remains are a few bytes: a page.
        assert made(39 * CHUNK_BYTES) == first + CHUNK_BYTES + 4096


@pytest.mark.parametrize("chunk", range(CHUNKS + 1))
def test_flipped_bit_is_found_wherever_it_is(chunk: int, source: Path, memory: Path) -> None:
    def flip() -> None:
        with (memory / "part").open("r+b") as part:
            part.seek(chunk * CHUNK_BYTES + TAIL - 1)
            byte = part.read(1)[0]
            part.seek(chunk * CHUNK_BYTES + TAIL - 1)
            part.write(bytes([byte ^ 16]))

    with pytest.raises(RetryError) as differs:
        _copy(source, memory, Moments(reading_back=chunk + 1, act=flip))
    assert differs.value.reason == Reason.COPY_DIFFERS


@pytest.mark.parametrize("size", [0, CHUNK_BYTES, AHEAD_BYTES, SIZE - 1, SIZE + 1])
def test_copy_of_another_size_is_found(size: int, source: Path, memory: Path) -> None:
    """Also where all its bytes were read back by then. Seen to fail for what is longer where only digests count."""
    with pytest.raises(RetryError) as differs:
        _copy(source, memory, Moments(reading_back=CHUNKS + 1, act=lambda: os.truncate(memory / "part", size)))
    assert differs.value.reason == Reason.COPY_DIFFERS


@pytest.mark.parametrize("size", [0, 3 * CHUNK_BYTES + 5])
def test_source_that_is_cut_while_it_is_copied_blames_the_source(size: int, source: Path, memory: Path) -> None:
    with pytest.raises(RetryError) as changed:
        _copy(source, memory, Moments(writing=2, act=lambda: os.truncate(source, size)))
    assert changed.value.reason == Reason.SOURCE_CHANGED


@pytest.mark.parametrize("chunk", range(1, CHUNKS + 2))
@pytest.mark.parametrize("thread", ["writing", "reading_back"])
def test_stop_ends_both_threads(thread: str, chunk: int, source: Path, memory: Path) -> None:
    with pytest.raises(HandedBackError):
        _copy(source, memory, Moments(**{thread: chunk}, act=lambda: True))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-back")]
