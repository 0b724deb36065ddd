"""Placing while things go wrong: full and failing disks, writers, kills, zombies, a stop. The faults are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.mover import place as placing
from services.mover.beneath import Reason, open_file, open_parent, open_root
from services.mover.copying import DIRECT_BYTES, Copied, HandedBackError, fill
from services.mover.identity import Entry, OpenFile, part_name
from services.mover.locking import locked
from services.mover.place import Placement, place
from shared.errors import DeadLetterError, RetryError
from shared.messages import Move

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

MOVE_ID = "0197f3a0-0000-7000-8000-000000000001"
MEBI = 1 << 20


@contextmanager
def mounted(where: Path, *arguments: str) -> Iterator[bool]:
    """Mounted until the end of the block; False for a user who may not mount."""
    if os.geteuid() != 0:
        yield False
        return
    done = subprocess.run(["mount", *arguments, where], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"root needs CAP_SYS_ADMIN for these tests: {done.stderr}")
    try:
        yield True
    finally:
        if subprocess.run(["umount", where], check=False).returncode != 0:
            subprocess.run(["umount", "-l", where], check=True)


def raising(number: int) -> Callable[..., Any]:
    def fault(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fault


@dataclass
class Levels:
    bronze: Path
    silver: Path

    @property
    def target(self) -> Path:
        return self.silver / "g.mp4"

    @property
    def source(self) -> Path:
        return self.bronze / "g.mp4"

    def part(self, attempt: int = 1) -> Path:
        return self.silver / part_name(MOVE_ID, attempt)

    def parts(self) -> list[Path]:
        return list(self.silver.rglob(".reshelve.*"))

    def place(
        self, attempt: int = 1, should_stop: Callable[[], bool] = lambda: False, filename: str = "g.mp4"
    ) -> Placement:
        move = Move(MOVE_ID, "7", filename, "bronze", "silver", str(self.bronze), str(self.silver), 1964, "x", 1, 2)
        return place(move, attempt, should_stop=should_stop, is_current=lambda: True)

    def retried(self, should_stop: Callable[[], bool] = lambda: False) -> str:
        """The reason for which placing is to be repeated; nothing is left of it."""
        with pytest.raises(RetryError) as retried:
            self.place(should_stop=should_stop)
        assert not self.parts()
        return retried.value.reason


class Hook:
    """A `should_stop` that acts at its n-th call (from 1): before the n-th chunk is read, copying and verifying."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.calls = 0
        self._at = at
        self._act = act

    def __call__(self) -> bool:
        self.calls += 1
        if self.calls == self._at:
            self._act()
        return False


@pytest.fixture
def near(tmp_path: Path) -> Levels:
    """Both levels on one file system."""
    levels = Levels(tmp_path / "bronze", tmp_path / "silver")
    levels.bronze.mkdir()
    levels.silver.mkdir()
    return levels


@pytest.fixture
def far(near: Levels, monkeypatch: pytest.MonkeyPatch) -> Iterator[Levels]:
    """The target on another file system."""
    with mounted(near.silver, "-t", "tmpfs", "tmpfs") as real:
        if not real:
            monkeypatch.setattr(os, "link", raising(18))
        yield near


@pytest.mark.parametrize("size", [300_000, 3 * MEBI, 6 * MEBI])
def test_full_disk_is_retried_until_there_is_room(near: Levels, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    near.source.write_bytes(os.urandom(size))
    with mounted(near.silver, "-t", "tmpfs", "-o", "size=64k", "tmpfs") as real:
        if not real:
            monkeypatch.setattr(os, "link", raising(18))
            monkeypatch.setattr(os, "write", raising(28))
        calls = Hook(0, list)
        assert near.retried(calls) == Reason.DISK_FULL
        if real:
            # A large copy does not even begin.
            assert calls.calls == (1 if size < MEBI else 0)
            subprocess.run(["mount", "-o", "remount,size=8m", near.silver], check=True)
            assert near.place().bytes == size


@pytest.mark.parametrize("call", range(1, 8))
def test_disk_in_memory_that_others_fill_meanwhile_is_retried(near: Levels, call: int) -> None:
    """Whichever thread meets it: the one that writes, or the one that reads back and makes room."""
    near.source.write_bytes(os.urandom(16 * MEBI))
    with mounted(near.silver, "-t", "tmpfs", "-o", "size=20m", "tmpfs") as real:
        if not real:
            pytest.skip("needs a small file system in memory")
        others = near.silver / "others"

        def fill_up() -> None:
            with suppress(OSError), others.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        hook = Hook(call, fill_up)

        def by_the_writer() -> bool:
            # While the other one did it, the writer might come to its end.
            return not threading.current_thread().name.startswith("read-back") and hook()

        assert near.retried(by_the_writer) == Reason.DISK_FULL
        assert list(near.silver.iterdir()) == [others]
        others.unlink()
        assert near.place().bytes == 16 * MEBI


def test_read_only_target_is_retried(near: Levels) -> None:
    near.source.write_bytes(b"film")
    with mounted(near.silver, "-t", "tmpfs", "-o", "ro", "tmpfs") as real:
        if not real:
            near.silver.chmod(0o555)
        assert near.retried() == (Reason.READ_ONLY if real else Reason.PERMISSION)


@contextmanager
def failing_disk(where: Path, base: Path) -> Iterator[bool]:
    """ext4 on a device that loses what is written to it: an image that cannot grow, for its tmpfs is full."""
    small = base / "small"
    small.mkdir()
    with mounted(small, "-t", "tmpfs", "-o", "size=6m", "tmpfs") as real:
        if not real:
            yield False
            return
        image = small / "disk"
        with image.open("wb") as disk:
            disk.truncate(64 * MEBI)
        options = ["-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]
        subprocess.run(["mkfs.ext4", *options, image], check=True)
        with mounted(where, "-o", "loop,errors=continue", str(image)):
            yield True


@pytest.mark.parametrize("size", [DIRECT_BYTES - MEBI, 2 * DIRECT_BYTES])
def test_disk_that_loses_what_is_written_throws_the_copy_away(
    near: Levels, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes past the page cache meets the error when it is written; the rest, when it is made durable."""
    near.source.write_bytes(os.urandom(size))
    with failing_disk(near.silver, tmp_path) as real:
        if not real:
            monkeypatch.setattr(os, "link", raising(18))
            monkeypatch.setattr(os, "fsync", raising(5))
        # The image cannot grow: the kernel says to a direct write that no space is left.
        at_once = real and size >= DIRECT_BYTES
        assert near.retried() == (Reason.DISK_FULL if at_once else Reason.FSYNC_FAILED)
        assert not near.target.exists()


def test_source_written_during_the_copy_is_retried(far: Levels) -> None:
    far.source.write_bytes(bytes(3 * MEBI))

    def write() -> None:
        with far.source.open("r+b") as writer:
            writer.write(b"new")

    assert far.retried(Hook(2, write)) == Reason.SOURCE_CHANGED
    assert not far.target.exists()


@pytest.mark.parametrize("size", [0, MEBI // 2, 5 * MEBI])
def test_source_that_shrinks_or_grows_is_retried(far: Levels, size: int) -> None:
    far.source.write_bytes(bytes(3 * MEBI))
    assert far.retried(Hook(2, lambda: os.truncate(far.source, size))) == Reason.SOURCE_CHANGED
    assert not far.target.exists()


def test_source_replaced_or_removed_during_the_copy_is_retried(far: Levels) -> None:
    for act in (far.source.unlink, lambda: (far.bronze / "other").replace(far.source)):
        far.source.write_bytes(bytes(3 * MEBI))
        (far.bronze / "other").write_bytes(bytes(3 * MEBI))
        assert far.retried(Hook(2, act)) == Reason.SOURCE_CHANGED
        assert not far.target.exists()


@pytest.mark.parametrize("size", [1000, 2 * MEBI + 5])
def test_flipped_bit_in_the_copy_is_found(far: Levels, size: int) -> None:
    far.source.write_bytes(bytes(size))

    def flip() -> None:
        with far.part().open("r+b") as disk:
            disk.seek(size - 1)
            disk.write(b"\x01")

    chunks = -(-size // MEBI)
    assert far.retried(Hook(chunks + 1, flip)) == Reason.COPY_DIFFERS
    assert not far.target.exists()
    assert far.place(2).bytes == size


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6])
def test_stop_hands_the_move_back_without_a_trace(far: Levels, at: int) -> None:
    far.source.write_bytes(bytes(3 * MEBI))
    calls = iter(range(1, 100))
    with pytest.raises(HandedBackError):
        far.place(should_stop=lambda: next(calls) >= at)
    assert not list(far.silver.iterdir())
    assert far.source.stat().st_size == 3 * MEBI


def test_stop_while_comparing_leaves_the_target(far: Levels) -> None:
    far.source.write_bytes(b"film")
    far.target.write_bytes(b"film")
    with pytest.raises(HandedBackError):
        far.place(should_stop=lambda: True)
    assert far.target.read_bytes() == b"film"


def test_target_written_while_it_is_compared_is_retried(far: Levels) -> None:
    far.source.write_bytes(b"film")
    far.target.write_bytes(b"film")
    assert far.retried(Hook(2, lambda: os.utime(far.target))) == Reason.TARGET_CHANGED
    assert far.place().method == "adopt"


def test_source_written_while_it_is_compared_is_no_conflict(far: Levels) -> None:
    far.source.write_bytes(b"film")
    far.target.write_bytes(b"film")
    assert far.retried(Hook(2, lambda: os.utime(far.source))) == Reason.SOURCE_CHANGED
    assert far.retried(Hook(1, lambda: far.source.write_bytes(b"note"))) == Reason.SOURCE_CHANGED


@pytest.mark.parametrize(("content", "adopted"), [(b"film", True), (b"note", False)])
def test_target_that_appears_during_the_copy_is_not_overwritten(far: Levels, content: bytes, adopted: bool) -> None:
    far.source.write_bytes(b"film")
    hook = Hook(2, lambda: far.target.write_bytes(content))
    if adopted:
        assert far.place(should_stop=hook).method == "adopt"
    else:
        with pytest.raises(DeadLetterError) as refused:
            far.place(should_stop=hook)
        assert refused.value.reason == Reason.TARGET_EXISTS
    assert far.target.read_bytes() == content
    assert not far.parts()


def test_zombie_whose_part_was_swept_gives_up(far: Levels) -> None:
    far.source.write_bytes(b"film")
    methods: list[str] = []
    hook = Hook(2, lambda: methods.append(far.place(2).method))
    with pytest.raises(RetryError) as vanished:
        far.place(1, hook)  # attempt 2 does it all before attempt 1 reads its copy back
    assert vanished.value.reason == Reason.VANISHED
    assert methods == ["copy"]
    assert far.target.read_bytes() == b"film"
    assert not far.parts()


def test_zombie_with_a_verified_copy_cannot_publish_it(far: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    far.source.write_bytes(b"film")

    def fill_then_pause(*facts: Any) -> Copied:
        copied = fill(*facts)
        placing.sweep(MOVE_ID, 2, facts[1])
        return copied

    monkeypatch.setattr(placing, "fill", fill_then_pause)
    assert far.retried() == Reason.VANISHED
    assert not far.target.exists()


def test_published_copy_of_a_zombie_is_adopted(far: Levels) -> None:
    far.source.write_bytes(b"film")
    methods: list[str] = []
    # The zombie's attempt is the later number here only so that it is not swept.
    placement = far.place(1, Hook(2, lambda: methods.append(far.place(1 << 20).method)))
    assert [*methods, placement.method] == ["copy", "adopt"]
    assert not far.parts()


def test_killed_attempt_is_swept_by_the_next(far: Levels) -> None:
    far.source.write_bytes(os.urandom(3 * MEBI))
    program = (
        "import os, signal, sys\n"
        "from services.mover.place import place\n"
        "from shared.messages import Move\n"
        f"move = Move({MOVE_ID!r}, '7', 'g.mp4', 'bronze', 'silver', sys.argv[1], sys.argv[2], 1964, 'x', 1, 2)\n"
        "calls = iter(range(100))\n"
        "place(move, 1, should_stop=lambda: next(calls) == 4 and os.kill(os.getpid(), signal.SIGKILL), "
        "is_current=lambda: True)\n"
    )
    if os.geteuid() != 0:
        far.part().write_bytes(b"half")
    else:
        arguments = [sys.executable, "-c", program, str(far.bronze), str(far.silver)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        assert subprocess.run(arguments, check=False, env=environment).returncode == -signal.SIGKILL
    assert far.parts() == [far.part()]
    assert far.place(3).method == "copy"
    assert far.target.read_bytes() == far.source.read_bytes()
    assert not far.parts()


@pytest.mark.parametrize("levels", ["near", "far"])
def test_attempt_that_is_started_again_replaces_its_own_part(levels: str, request: pytest.FixtureRequest) -> None:
    pair: Levels = request.getfixturevalue(levels)
    pair.source.write_bytes(b"film")
    pair.part().write_bytes(b"half a fi")
    pair.place(1)
    assert pair.target.read_bytes() == b"film"
    assert not pair.parts()


def before_link(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], after: Callable[[], object] = list) -> None:
    """Something happens in the instant before the first link is made, and something else right after it."""
    link = os.link

    def link_late(*names: str, **directories: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        act()
        link(*names, **directories)
        after()

    monkeypatch.setattr(os, "link", link_late)


def test_source_swapped_between_open_and_link_is_not_published(near: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    near.source.write_bytes(b"film")
    (near.bronze / "other").write_bytes(b"note")
    before_link(monkeypatch, lambda: (near.bronze / "other").replace(near.source))
    assert near.retried() == Reason.SOURCE_CHANGED
    assert not near.target.exists()
    assert near.source.read_bytes() == b"note"


def test_source_swapped_and_swapped_back_is_not_published(near: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    near.source.write_bytes(b"film")
    (near.bronze / "other").write_bytes(b"note")
    aside = near.bronze / "aside"

    def swap() -> None:
        near.source.rename(aside)
        (near.bronze / "other").rename(near.source)

    before_link(monkeypatch, swap, lambda: aside.replace(near.source))
    assert near.retried() == Reason.SOURCE_CHANGED
    assert not near.target.exists()
    assert near.place().method == "link"


def test_source_removed_before_the_link_is_retried(near: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    near.source.write_bytes(b"film")
    before_link(monkeypatch, near.source.unlink)
    assert near.retried() == Reason.SOURCE_CHANGED


@pytest.mark.parametrize("levels", ["near", "far"])
def test_directory_that_a_retire_removed_is_made_again(
    levels: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair: Levels = request.getfixturevalue(levels)
    (pair.bronze / "a/b").mkdir(parents=True)
    (pair.bronze / "a/b/g.mp4").write_bytes(b"film")
    before_link(monkeypatch, lambda: os.removedirs(pair.silver / "a/b"))
    (pair.silver / "stays").write_bytes(b"so that the level's root is not empty")
    pair.place(filename="a/b/g.mp4")
    assert (pair.silver / "a/b/g.mp4").read_bytes() == b"film"


def test_without_renameat2_publishing_links_and_never_overwrites(far: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        monkeypatch.undo()
    # An unknown flag gets EINVAL, just as NFS answers to RENAME_NOREPLACE.
    monkeypatch.setattr(placing, "_RENAME_NOREPLACE", 1 << 30)
    far.source.write_bytes(b"film")
    assert far.place().bytes == 4
    assert not far.parts()
    far.target.unlink()
    hook = Hook(2, lambda: far.target.write_bytes(b"note"))
    if os.geteuid() == 0:
        with pytest.raises(DeadLetterError) as refused:
            far.place(should_stop=hook)
        assert refused.value.reason == Reason.TARGET_EXISTS
        assert far.target.read_bytes() == b"note"


def test_lock_falls_back_to_a_writable_descriptor(near: Levels) -> None:
    # O_PATH is refused with EBADF, as NFS refuses a descriptor that is open for reading only.
    near.source.write_bytes(b"film")
    fd = os.open(near.source, os.O_PATH)
    try:
        with open_root(str(near.bronze)) as root:
            file = OpenFile(Entry(root, "g.mp4"), fd, os.fstat(fd))
            with locked(file, Reason.SOURCE_BUSY):
                with (
                    open_file(Entry(root, "g.mp4")) as again,
                    pytest.raises(RetryError, match=Reason.SOURCE_BUSY),
                    locked(again, Reason.SOURCE_BUSY),
                ):
                    pass
                with pytest.raises(RetryError), locked(file, Reason.SOURCE_BUSY):
                    pass
            with open_file(Entry(root, "g.mp4")) as again, locked(again, Reason.SOURCE_BUSY):
                pass
    finally:
        os.close(fd)


@pytest.mark.parametrize("levels", ["near", "far"])
def test_directories_may_be_removed_while_they_are_filled(levels: str, request: pytest.FixtureRequest) -> None:
    """What a retire does to directories that are empty for a moment."""
    pair: Levels = request.getfixturevalue(levels)
    done = threading.Event()

    def remove_emptied() -> None:
        while not done.is_set():
            for directory in ("a/b", "a"):
                with suppress(OSError):
                    (pair.silver / directory).rmdir()
            time.sleep(0.002)  # or nothing would ever stand

    (pair.bronze / "a/b").mkdir(parents=True)
    remover = threading.Thread(target=remove_emptied)
    remover.start()
    try:
        for number in range(100):
            (pair.bronze / f"a/b/{number}").write_bytes(b"film")
            for _ in range(200):
                try:
                    pair.place(filename=f"a/b/{number}")
                except RetryError as error:
                    assert error.reason == Reason.TARGET_BUSY  # noqa: PT017  # raised only under heavy fire
                else:
                    break
            else:
                pytest.fail("200 times in a row the directory was removed in time")
            assert (pair.silver / f"a/b/{number}").read_bytes() == b"film"
            (pair.silver / f"a/b/{number}").unlink()
    finally:
        done.set()
        remover.join()


@pytest.mark.parametrize("levels", ["near", "far"])
def test_many_attempts_at_once_leave_one_whole_file(levels: str, request: pytest.FixtureRequest) -> None:
    pair: Levels = request.getfixturevalue(levels)
    content = os.urandom(2 * MEBI + 5)

    def attempt(number: int) -> str:
        try:
            return pair.place(number).method
        except RetryError as error:
            return f"retry: {error.reason}"

    for _ in range(10):
        pair.source.write_bytes(content)
        with ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(attempt, range(1, 7)))
        assert sum(outcome in {"link", "copy"} for outcome in outcomes) == 1
        assert pair.target.read_bytes() == content == pair.source.read_bytes()
        assert not pair.parts()
        pair.target.unlink()


def test_made_directories_appear_only_where_they_are_asked_for(near: Levels) -> None:
    (near.bronze / "a/b").mkdir(parents=True)
    with open_root(str(near.silver)) as silver, open_root(str(near.bronze)) as bronze:
        with pytest.raises(FileNotFoundError), open_parent(silver, "a/b/g.mp4"):
            pass
        assert not (near.silver / "a").exists()
        with open_parent(silver, "a/b/c/g.mp4", like=bronze) as entry:
            assert entry.stat() is None
        assert (near.silver / "a/b/c").is_dir()
