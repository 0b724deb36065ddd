"""Placing a content on its level: link, copy, adopt, refuse. Real files on two real file systems."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from msgspec.structs import replace

from services.mover import copying
from services.mover.beneath import Reason
from services.mover.identity import file_id
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


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)


@dataclass
class Levels:
    bronze: Path
    silver: Path

    def put(self, filename: str, content: bytes) -> Path:
        path = self.bronze / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(1_600_000_000_000_000_001, 1_500_000_000_123_456_789))
        return path

    def move(self, filename: str) -> Move:
        return Move(MOVE_ID, "7", filename, "bronze", "silver", str(self.bronze), str(self.silver), 1964, "test", 1, 2)

    def place(self, filename: str, attempt: int = 1) -> Placement:
        return place(self.move(filename), attempt, should_stop=lambda: False, is_current=lambda: True)

    def refused(self, filename: str) -> DeadLetterError:
        """The dead letter that placing ends in; both levels are left as they are."""
        before = self.listing()
        with pytest.raises(DeadLetterError) as refused:
            self.place(filename)
        assert self.listing() == before
        return refused.value

    def listing(self) -> dict[str, str]:
        found = [path for level in (self.bronze, self.silver) for path in level.rglob("*")]
        return {str(path): file_id(path.lstat()) for path in found if not path.is_dir()}


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Levels]:
    """Both levels on one file system."""
    levels = Levels(tmp_path / "bronze", tmp_path / "silver")
    levels.bronze.mkdir()
    levels.silver.mkdir()
    yield levels
    assert not list(tmp_path.rglob(".reshelve.*"))


@pytest.fixture
def far(near: Levels, monkeypatch: pytest.MonkeyPatch) -> Iterator[Levels]:
    """The target on another file system."""
    with mounted(near.silver, "-t", "tmpfs", "tmpfs") as real:
        if not real:
            refuse_links(monkeypatch)
        yield near
        assert not list(near.silver.rglob(".reshelve.*"))


@pytest.fixture
def away(near: Levels, monkeypatch: pytest.MonkeyPatch) -> Iterator[Levels]:
    """The source on another file system."""
    with mounted(near.bronze, "-t", "tmpfs", "tmpfs") as real:
        if not real:
            refuse_links(monkeypatch)
        yield near


def test_on_one_file_system_a_link_is_placed(near: Levels) -> None:
    source = near.put("a/g.mp4", b"film")
    placement = near.place("a/g.mp4")
    target = near.silver / "a/g.mp4"
    assert target.samefile(source)
    assert source.stat().st_nlink == 2
    assert placement == Placement(4, "", "link", file_id(source.stat()), file_id(target.stat()))


@pytest.mark.parametrize("where", ["far", "away"])
@pytest.mark.parametrize("size", [0, 1, 5000, MEBI, MEBI + 1, 3 * MEBI + 17])
def test_across_file_systems_a_verified_copy_is_placed(where: str, size: int, request: pytest.FixtureRequest) -> None:
    levels: Levels = request.getfixturevalue(where)
    content = os.urandom(size)
    source = levels.put("g.mp4", content)
    placement = levels.place("g.mp4")
    target = levels.silver / "g.mp4"
    assert target.read_bytes() == content == source.read_bytes()
    expected = Placement(size, blake3(content).hexdigest(), "copy", file_id(source.stat()), file_id(target.stat()))
    assert placement == expected


def test_long_copy_is_flushed_on_its_way(far: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "WINDOW_BYTES", 2 * MEBI)
    content = os.urandom(7 * MEBI)
    far.put("g.mp4", content)
    assert far.place("g.mp4").digest == blake3(content).hexdigest()
    assert (far.silver / "g.mp4").read_bytes() == content


@pytest.mark.parametrize("where", ["far", "away"])
def test_copy_keeps_mode_owner_times_and_attributes(where: str, request: pytest.FixtureRequest) -> None:
    levels: Levels = request.getfixturevalue(where)
    source = levels.put("g.mp4", b"film")
    if os.geteuid() == 0:
        os.chown(source, 1234, 5678)
    source.chmod(0o4751)
    os.setxattr(source, "user.origin", b"\0camera\xff")
    os.utime(source, ns=(1_600_000_000_000_000_001, 1_500_000_000_123_456_789))
    before = source.stat()
    levels.place("g.mp4")
    after = (levels.silver / "g.mp4").stat()
    for fact in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_atime_ns"):
        assert getattr(after, fact) == getattr(before, fact), fact
    assert os.getxattr(levels.silver / "g.mp4", "user.origin") == b"\0camera\xff"
    assert source.stat().st_atime_ns == before.st_atime_ns


def test_reflink_is_placed_without_a_digest(far: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither ext4 nor tmpfs can share extents: the ioctl's part is played by a plain copy.
    def clone(source_fd: int, part_fd: int) -> bool:
        os.write(part_fd, os.pread(source_fd, 100, 0))
        return True

    monkeypatch.setattr(copying, "_clone", clone)
    source = far.put("g.mp4", b"film")
    placement = far.place("g.mp4")
    assert (placement.method, placement.digest, placement.bytes) == ("reflink", "", 4)
    assert (far.silver / "g.mp4").read_bytes() == b"film"
    assert (far.silver / "g.mp4").stat().st_mtime_ns == source.stat().st_mtime_ns


@pytest.mark.parametrize(
    "filename",
    [
        "a\nb",
        "Фильм/кино 🎬.mp4",
        "x" * 255,
        "é" * 127,
        "a b  c/ d e",
        "-rf",
        "--/-",
        "a\\b*?[c]$(x)`y`",
        "~/x",
        "deep/" * 40 + "g",
    ],
)
@pytest.mark.parametrize("where", ["near", "far"])
def test_hostile_names_are_only_names(where: str, filename: str, request: pytest.FixtureRequest) -> None:
    levels: Levels = request.getfixturevalue(where)
    levels.put(filename, b"film")
    levels.place(filename)
    assert (levels.silver / filename).read_bytes() == b"film"


@pytest.mark.parametrize("filename", ["../g", "/etc/passwd", "a/../../g", "", "a//b", "a\0b", ".reshelve.x", "y" * 256])
def test_bad_filename_is_a_dead_letter(near: Levels, filename: str) -> None:
    assert near.refused(filename).reason == Reason.BAD_FILENAME


def test_bad_move_id_is_a_dead_letter(near: Levels) -> None:
    near.put("g.mp4", b"film")
    with pytest.raises(DeadLetterError) as refused:
        place(replace(near.move("g.mp4"), move_id="../../x"), 1, should_stop=lambda: False, is_current=lambda: True)
    assert refused.value.reason == Reason.BAD_MOVE_ID


def test_made_directories_have_the_mode_of_the_source(far: Levels) -> None:
    far.put("shelf/private/g.mp4", b"film")
    (far.bronze / "shelf").chmod(0o2775)
    (far.bronze / "shelf/private").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(far.bronze / "shelf", 1234, 5678)
    before = [(far.bronze / name).stat() for name in ("shelf", "shelf/private")]
    far.place("shelf/private/g.mp4")
    after = [(far.silver / name).stat() for name in ("shelf", "shelf/private")]
    assert [(s.st_mode, s.st_uid, s.st_gid) for s in after] == [(s.st_mode, s.st_uid, s.st_gid) for s in before]


def test_link_of_an_earlier_attempt_is_adopted_unread(near: Levels) -> None:
    source = near.put("g.mp4", b"film")
    near.place("g.mp4", attempt=1)
    placement = near.place("g.mp4", attempt=2)
    assert placement == Placement(4, "", "adopt", file_id(source.stat()), file_id(source.stat()))


@pytest.mark.parametrize("where", ["near", "far"])
def test_same_content_is_adopted(where: str, request: pytest.FixtureRequest) -> None:
    levels: Levels = request.getfixturevalue(where)
    source = levels.put("g.mp4", b"film")
    target = levels.silver / "g.mp4"
    target.write_bytes(b"film")
    before = target.stat()
    placement = levels.place("g.mp4")
    expected = Placement(4, blake3(b"film").hexdigest(), "adopt", file_id(source.stat()), file_id(before))
    assert placement == expected
    assert target.stat().st_ino == before.st_ino


def test_target_that_is_being_retired_is_not_adopted(far: Levels) -> None:
    far.put("g.mp4", b"film")
    target = far.silver / "g.mp4"
    target.write_bytes(b"film")
    with target.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RetryError) as busy:
            far.place("g.mp4")
    assert busy.value.reason == Reason.TARGET_BUSY
    assert far.place("g.mp4").method == "adopt"


@pytest.mark.parametrize("where", ["near", "far"])
@pytest.mark.parametrize("content", [b"", b"fil", b"fild", b"filmfilm"])
def test_other_content_is_never_overwritten(where: str, content: bytes, request: pytest.FixtureRequest) -> None:
    levels: Levels = request.getfixturevalue(where)
    levels.put("g.mp4", b"film")
    (levels.silver / "g.mp4").write_bytes(content)
    assert levels.refused("g.mp4").reason == Reason.TARGET_EXISTS
    assert (levels.silver / "g.mp4").read_bytes() == content


@pytest.mark.parametrize("where", ["near", "far"])
def test_directory_or_link_or_pipe_on_the_target_is_left_alone(where: str, request: pytest.FixtureRequest) -> None:
    levels: Levels = request.getfixturevalue(where)
    for name in ("directory", "link", "dangling", "pipe"):
        levels.put(name, b"film")
    (levels.silver / "directory").mkdir()
    (levels.silver / "link").symlink_to(levels.bronze / "link")
    (levels.silver / "dangling").symlink_to("nowhere")
    os.mkfifo(levels.silver / "pipe")
    for name in ("directory", "link", "dangling", "pipe"):
        assert levels.refused(name).reason == Reason.TARGET_EXISTS
    assert stat.S_ISDIR((levels.silver / "directory").lstat().st_mode)


def test_missing_source_is_a_dead_letter_that_tells_of_the_target(near: Levels) -> None:
    assert "nothing stands" in near.refused("g.mp4").detail
    assert near.refused("no/such/g.mp4").reason == Reason.SOURCE_MISSING
    (near.silver / "g.mp4").write_bytes(b"film")
    missing = near.refused("g.mp4")
    assert missing.reason == Reason.SOURCE_MISSING
    assert "something stands" in missing.detail
    assert not (near.silver / "no").exists()


def test_source_that_is_a_link_is_an_escape(near: Levels, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (near.bronze / "g.mp4").symlink_to(tmp_path / "secret")
    assert near.refused("g.mp4").reason == Reason.ESCAPE
    (near.bronze / "dangling").symlink_to("nowhere")
    assert near.refused("dangling").reason == Reason.ESCAPE


def test_source_must_be_a_regular_file(near: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    (near.bronze / "directory").mkdir()
    os.mkfifo(near.bronze / "pipe")
    monkeypatch.chdir(near.bronze)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    for name in ("directory", "pipe", "socket"):
        assert near.refused(name).reason == Reason.NOT_A_FILE


@pytest.mark.parametrize("level", ["bronze", "silver"])
def test_parent_that_is_a_link_is_an_escape(near: Levels, tmp_path: Path, level: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    if level == "bronze":
        (outside / "g.mp4").write_bytes(b"film")
        (near.silver / "a").mkdir()
    else:
        near.put("a/g.mp4", b"film")
    (getattr(near, level) / "a").symlink_to(outside)
    assert near.refused("a/g.mp4").reason == Reason.ESCAPE
    assert [path.name for path in outside.iterdir()] == (["g.mp4"] if level == "bronze" else [])


@pytest.mark.parametrize("level", ["bronze", "silver"])
def test_parent_that_is_a_file_is_a_dead_letter(near: Levels, level: str) -> None:
    if level == "silver":
        near.put("a/g.mp4", b"film")
    (getattr(near, level) / "a").write_bytes(b"a file")
    assert near.refused("a/g.mp4").reason == Reason.NOT_A_DIRECTORY


def test_root_itself_may_be_reached_through_a_link(near: Levels, tmp_path: Path) -> None:
    near.put("g.mp4", b"film")
    (tmp_path / "link").symlink_to(near.silver)
    move = replace(near.move("g.mp4"), to_path=str(tmp_path / "link"))
    assert place(move, 1, should_stop=lambda: False, is_current=lambda: True).method == "link"
    assert (near.silver / "g.mp4").exists()


def test_missing_root_is_retried(near: Levels) -> None:
    film = near.put("g.mp4", b"film")
    missing = near.bronze / "missing"
    for levels in (Levels(missing, near.silver), Levels(near.bronze, missing), Levels(near.bronze, film)):
        with pytest.raises(RetryError) as unavailable:
            levels.place("g.mp4")
        assert unavailable.value.reason == Reason.LEVEL_UNAVAILABLE


def test_levels_that_share_a_directory_are_a_dead_letter(near: Levels, tmp_path: Path) -> None:
    near.put("g.mp4", b"film")
    same = Levels(near.bronze, near.bronze)
    assert same.refused("g.mp4").reason == Reason.SHARED_DIRECTORY
    (tmp_path / "link").symlink_to(near.bronze)
    assert Levels(near.bronze, tmp_path / "link").refused("g.mp4").reason == Reason.SHARED_DIRECTORY


def test_directory_mounted_twice_is_recognised(near: Levels) -> None:
    near.put("a/g.mp4", b"film")
    with mounted(near.silver, "--bind", str(near.bronze)) as real:
        same = near if real else Levels(near.bronze, near.bronze)
        assert same.refused("a/g.mp4").reason == Reason.SHARED_DIRECTORY


@contextmanager
def overlaid(levels: Levels) -> Iterator[bool]:
    """Silver shows bronze's very files, under another device number: as a share does that is mounted twice."""
    base = levels.bronze.parent
    for name in ("lower", "work"):
        (base / name).mkdir()
    layers = f"lowerdir={base}/lower,upperdir={levels.bronze},workdir={base}/work"
    with mounted(levels.silver, "-t", "overlay", "overlay", "-o", layers) as real:
        yield real


def test_directory_mounted_twice_with_other_device_numbers_is_recognised(near: Levels) -> None:
    near.put("g.mp4", b"film")
    with overlaid(near) as real:
        if real:
            assert near.bronze.stat().st_dev != near.silver.stat().st_dev
            assert near.refused("g.mp4").reason == Reason.SHARED_DIRECTORY
    assert (near.bronze / "g.mp4").read_bytes() == b"film"


def test_part_that_shows_up_beside_the_source_stops_the_copy(near: Levels) -> None:
    with overlaid(near) as real:
        # Silver's mount remembers that the name is missing, as a network mount does for a while.
        assert not (near.silver / "g.mp4").exists()
        near.put("g.mp4", b"film")
        if real:
            with pytest.raises(DeadLetterError) as refused:
                near.place("g.mp4")
            assert refused.value.reason == Reason.SHARED_DIRECTORY
    assert (near.bronze / "g.mp4").read_bytes() == b"film"
