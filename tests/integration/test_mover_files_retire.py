"""Retiring a source: the last copy of a content is never removed. Real files on real file systems."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from services.mover.beneath import Reason
from services.mover.identity import file_id
from services.mover.place import place
from services.mover.retire import lock_source
from shared.errors import DeadLetterError, RetryError
from shared.messages import Move, Retire

pytestmark = pytest.mark.usefixtures("no_descriptor_leaks")

MOVE_ID = "0197f3a0-0000-7000-8000-000000000001"


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


@dataclass
class Levels:
    bronze: Path
    silver: Path

    def order(self, filename: str, source_id: str, target_id: str) -> Retire:
        facts = (MOVE_ID, "7", filename, "bronze", "silver", str(self.bronze), str(self.silver), 1964, "test")
        return Retire(*facts, 4, "", "copy", 0.1, "mover-1", 1, source_id, target_id, 1, 2, 3, not_before=4)

    def placed(self, filename: str = "a/b/g.mp4") -> Retire:
        """The order to retire a file that was placed just now."""
        source = self.bronze / filename
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(b"film")
        order = self.order(filename, "", "")
        move = Move(MOVE_ID, "7", filename, "bronze", "silver", order.from_path, order.to_path, 1964, "test", 1, 2)
        placement = place(move, 1, should_stop=lambda: False, is_current=lambda: True)
        return self.order(filename, placement.source_id, placement.target_id)


def retire(order: Retire) -> bool:
    """False where the source was gone already."""
    source = lock_source(order)
    if source is None:
        return False
    with source:
        source.remove()
    return True


def refused(order: Retire) -> str:
    """Why the source cannot even be locked."""
    with pytest.raises(DeadLetterError) as refusal:
        lock_source(order)
    return refusal.value.reason


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Levels]:
    """Both levels on one file system: what is placed is a hard link."""
    levels = Levels(tmp_path / "bronze", tmp_path / "silver")
    levels.bronze.mkdir()
    levels.silver.mkdir()
    yield levels
    assert not list(tmp_path.rglob(".reshelve.*"))


@pytest.fixture
def far(near: Levels, monkeypatch: pytest.MonkeyPatch) -> Iterator[Levels]:
    """The target on another file system: what is placed is a copy."""
    with mounted(near.silver, "-t", "tmpfs", "tmpfs") as real:
        if not real:

            def refuse(*_: object, **__: object) -> None:
                raise OSError(18, "Invalid cross-device link")

            monkeypatch.setattr(os, "link", refuse)
        yield near
        assert not list(near.silver.rglob(".reshelve.*"))


@pytest.fixture(params=["near", "far"])
def levels(request: pytest.FixtureRequest) -> Levels:
    pair: Levels = request.getfixturevalue(request.param)
    return pair


def test_source_and_what_it_leaves_empty_are_removed(levels: Levels) -> None:
    assert retire(levels.placed())
    assert not list(levels.bronze.iterdir())
    assert levels.bronze.is_dir()
    assert (levels.silver / "a/b/g.mp4").read_bytes() == b"film"


def test_root_of_a_level_is_never_removed(levels: Levels) -> None:
    assert retire(levels.placed("g.mp4"))
    assert levels.bronze.is_dir()
    assert (levels.silver / "g.mp4").read_bytes() == b"film"


def test_directory_that_holds_something_stays(levels: Levels) -> None:
    order = levels.placed()
    (levels.bronze / "a/other").write_bytes(b"note")
    assert retire(order)
    assert [path.name for path in (levels.bronze / "a").iterdir()] == ["other"]


def test_retire_may_be_repeated(levels: Levels) -> None:
    order = levels.placed()
    assert retire(order)
    assert not retire(order)
    assert not retire(order)


def test_repetition_removes_the_directories_that_a_kill_left(levels: Levels) -> None:
    order = levels.placed()
    (levels.bronze / "a/b/g.mp4").unlink()
    assert not retire(order)
    assert not list(levels.bronze.iterdir())


def test_missing_placed_copy_keeps_the_source(levels: Levels) -> None:
    order = levels.placed()
    (levels.silver / "a/b/g.mp4").unlink()
    assert refused(order) == Reason.PLACED_MISSING
    (levels.silver / "a/b").rmdir()
    assert refused(order) == Reason.PLACED_MISSING
    assert (levels.bronze / "a/b/g.mp4").read_bytes() == b"film"


def test_missing_placed_copy_is_told_even_where_the_source_is_gone_too(levels: Levels) -> None:
    order = levels.placed()
    retire(order)
    (levels.silver / "a/b/g.mp4").unlink()
    assert refused(order) == Reason.PLACED_MISSING


def test_changed_placed_copy_keeps_the_source(far: Levels) -> None:
    order = far.placed()
    target = far.silver / "a/b/g.mp4"
    target.write_bytes(b"note")
    assert refused(order) == Reason.PLACED_CHANGED
    target.unlink()
    target.symlink_to(far.bronze / "a/b/g.mp4")
    assert refused(order) == Reason.PLACED_CHANGED
    assert (far.bronze / "a/b/g.mp4").read_bytes() == b"film"


def test_replaced_link_keeps_the_source(near: Levels) -> None:
    order = near.placed()
    (near.silver / "a/b/g.mp4").unlink()
    (near.silver / "a/b/g.mp4").write_bytes(b"film")
    assert refused(order) == Reason.PLACED_CHANGED
    assert (near.bronze / "a/b/g.mp4").read_bytes() == b"film"


def test_changed_source_is_kept(far: Levels) -> None:
    order = far.placed()
    (far.bronze / "a/b/g.mp4").write_bytes(b"edited")
    assert refused(order) == Reason.SOURCE_CHANGED
    assert (far.bronze / "a/b/g.mp4").read_bytes() == b"edited"


def test_write_through_a_link_changes_both_and_is_no_obstacle(near: Levels) -> None:
    order = near.placed()
    (near.bronze / "a/b/g.mp4").write_bytes(b"edited")
    assert retire(order)
    assert (near.silver / "a/b/g.mp4").read_bytes() == b"edited"


def test_source_that_became_a_link_or_directory_is_kept(levels: Levels) -> None:
    order = levels.placed()
    source = levels.bronze / "a/b/g.mp4"
    source.unlink()
    source.symlink_to("elsewhere")
    assert refused(order) == Reason.ESCAPE
    source.unlink()
    source.mkdir()
    assert refused(order) == Reason.NOT_A_FILE


@pytest.mark.parametrize("level", ["bronze", "silver"])
def test_parent_that_became_a_link_is_an_escape(levels: Levels, tmp_path: Path, level: str) -> None:
    order = levels.placed()
    parent = getattr(levels, level) / "a"
    parent.rename(getattr(levels, level) / "elsewhere")
    parent.symlink_to("elsewhere")
    assert refused(order) == Reason.ESCAPE
    assert (levels.bronze / "a/b/g.mp4").read_bytes() == b"film"


def test_source_locked_by_another_process_is_retried(levels: Levels) -> None:
    order = levels.placed()
    with (levels.bronze / "a/b/g.mp4").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(RetryError) as busy:
            lock_source(order)
    assert busy.value.reason == Reason.SOURCE_BUSY
    assert retire(order)


def test_paused_mover_keeps_everybody_else_out(levels: Levels) -> None:
    order = levels.placed()
    paused = lock_source(order)
    assert paused is not None
    with paused:
        for _ in range(2):
            with pytest.raises(RetryError) as busy:
                lock_source(order)
            assert busy.value.reason == Reason.SOURCE_BUSY
        paused.remove()
    assert lock_source(order) is None


def test_paused_mover_keeps_its_file_from_being_adopted(far: Levels) -> None:
    """The content is to come back to a name that a paused mover is about to remove."""
    order = far.placed()
    back = Move(MOVE_ID, "7", order.filename, "silver", "bronze", str(far.silver), str(far.bronze), 5, "test", 1, 2)
    with lock_source(order) or pytest.fail("nothing to lock"), pytest.raises(RetryError) as busy:
        place(back, 1, should_stop=lambda: False, is_current=lambda: True)
    assert busy.value.reason == Reason.TARGET_BUSY
    assert place(back, 2, should_stop=lambda: False, is_current=lambda: True).method == "adopt"


def test_leaving_without_removal_frees_the_source(levels: Levels) -> None:
    order = levels.placed()
    with lock_source(order) or pytest.fail("nothing to lock") as source:
        pass
    with pytest.raises(RetryError) as released:
        source.remove()
    assert released.value.reason == Reason.SOURCE_BUSY
    assert (levels.bronze / "a/b/g.mp4").exists()
    assert retire(order)


def test_placed_copy_that_goes_or_changes_under_the_lock_keeps_the_source(far: Levels) -> None:
    order = far.placed()
    target = far.silver / "a/b/g.mp4"
    aside = far.silver / "aside"
    for act in (lambda: target.rename(aside), lambda: target.write_bytes(b"note")):
        with lock_source(order) or pytest.fail("nothing to lock") as source:
            act()
            with pytest.raises(DeadLetterError):
                source.remove()
        if aside.exists():
            aside.rename(target)
    assert (far.bronze / "a/b/g.mp4").read_bytes() == b"film"


def test_source_that_changes_under_the_lock_is_kept(far: Levels) -> None:
    order = far.placed()
    source = far.bronze / "a/b/g.mp4"
    with lock_source(order) or pytest.fail("nothing to lock") as held:
        source.rename(far.bronze / "aside")
        source.write_bytes(b"new")
        with pytest.raises(RetryError) as replaced:
            held.remove()
        assert replaced.value.reason == Reason.SOURCE_CHANGED
        (far.bronze / "aside").rename(source)
        source.write_bytes(b"edited")
        with pytest.raises(DeadLetterError) as changed:
            held.remove()
        assert changed.value.reason == Reason.SOURCE_CHANGED
    assert source.read_bytes() == b"edited"


def test_same_entry_is_never_removed(near: Levels, tmp_path: Path) -> None:
    film = near.bronze / "g.mp4"
    film.write_bytes(b"film")
    (tmp_path / "link").symlink_to(near.bronze)
    for silver in (near.bronze, tmp_path / "link"):
        order = Levels(near.bronze, silver).order("g.mp4", file_id(film.stat()), file_id(film.stat()))
        assert refused(order) == Reason.SHARED_DIRECTORY
    assert film.read_bytes() == b"film"


@pytest.mark.parametrize("links", [1, 2])
def test_same_entry_under_a_second_mount_is_never_removed(near: Levels, links: int) -> None:
    film = near.bronze / "g.mp4"
    film.write_bytes(b"film")
    if links == 2:
        os.link(film, near.bronze / "second")
    with mounted(near.silver, "--bind", str(near.bronze)) as real:
        silver = near.silver if real else near.bronze
        order = Levels(near.bronze, silver).order("g.mp4", file_id(film.stat()), file_id(film.stat()))
        assert refused(order) == Reason.SHARED_DIRECTORY
    assert film.read_bytes() == b"film"


def test_same_entry_under_another_device_number_is_never_removed(near: Levels, tmp_path: Path) -> None:
    film = near.bronze / "g.mp4"
    film.write_bytes(b"film")
    for name in ("lower", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={tmp_path}/lower,upperdir={near.bronze},workdir={tmp_path}/work"
    with mounted(near.silver, "-t", "overlay", "overlay", "-o", layers) as real:
        silver = near.silver if real else near.bronze
        if real:
            assert (silver / "g.mp4").stat().st_dev != film.stat().st_dev
        order = Levels(near.bronze, silver).order("g.mp4", file_id(film.stat()), file_id((silver / "g.mp4").stat()))
        assert refused(order) == Reason.SHARED_DIRECTORY
    assert film.read_bytes() == b"film"


def test_read_only_source_is_retried(near: Levels) -> None:
    with mounted(near.bronze, "-t", "tmpfs", "tmpfs") as real:
        order = near.placed()
        if real:
            subprocess.run(["mount", "-o", "remount,ro", near.bronze], check=True)
        else:
            (near.bronze / "a/b").chmod(0o555)
        with pytest.raises(RetryError) as read_only:
            retire(order)
        assert read_only.value.reason == (Reason.READ_ONLY if real else Reason.PERMISSION)
        if not real:
            (near.bronze / "a/b").chmod(0o755)
        assert (near.bronze / "a/b/g.mp4").read_bytes() == b"film"


def test_full_target_does_not_hinder_a_retire(near: Levels) -> None:
    with mounted(near.silver, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        order = near.placed()
        try:
            (near.silver / "filler").write_bytes(bytes(100_000))
        except OSError:
            assert os.geteuid() == 0
        assert retire(order)


def test_missing_root_is_retried(near: Levels) -> None:
    order = near.placed()
    missing = str(near.bronze / "missing")
    for broken in (replace(order, from_path=missing), replace(order, to_path=missing)):
        with pytest.raises(RetryError) as unavailable:
            lock_source(broken)
        assert unavailable.value.reason == Reason.LEVEL_UNAVAILABLE


def test_orders_from_the_wire_are_checked(near: Levels) -> None:
    order = near.placed()
    assert refused(replace(order, filename="../silver/g.mp4")) == Reason.BAD_FILENAME
    assert refused(replace(order, move_id="../x")) == Reason.BAD_MOVE_ID
