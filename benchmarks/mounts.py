"""Two filesystems to move files between."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_MIB = 1024 * 1024
_LEAST_BYTES = 192 * _MIB
_BYTES_PER_INODE = 4096
_TRIES = 30
_SHM = Path("/dev/shm")  # noqa: S108  # the one directory that is a tmpfs without our doing


@dataclass(frozen=True)
class Places:
    """Two empty directories on two filesystems; `kind` says which."""

    source: Path
    target: Path
    kind: str


@contextmanager
def two_filesystems(work: Path, size: int, *, to_tmpfs: bool = False) -> Iterator[Places]:
    """Fresh ones for `size` bytes, gone afterwards: deleting many files would slow whoever makes files next.

    Two ext4 images through loop devices (or one, and a tmpfs); where mounting is not permitted, a directory beneath
    `work` and one on the machine's tmpfs.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True)))
        try:
            source = stack.enter_context(_image(directory / "source", size))
            mount = _tmpfs if to_tmpfs else _image
            target = stack.enter_context(mount(directory / "target", size))
            kind = "an ext4 image to a tmpfs" if to_tmpfs else "an ext4 image to another"
        except (OSError, subprocess.CalledProcessError):
            source = directory
            target = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_SHM)))
            kind = "the machine's disk to its tmpfs"
        places = Places(source / "files", target / "files", kind)
        places.source.mkdir()
        places.target.mkdir()
        if os.stat(places.source).st_dev == os.stat(places.target).st_dev:  # noqa: PTH116
            raise RuntimeError("there are no two filesystems on this machine to move files between")
        yield places


@contextmanager
def _image(directory: Path, size: int) -> Iterator[Path]:
    directory.mkdir()
    image = directory.with_suffix(".img")
    with image.open("wb") as file:
        # Taken from the disk beforehand: else each fsync in it would change the metadata of the disk, too.
        os.posix_fallocate(file.fileno(), 0, max(_LEAST_BYTES, 3 * size // 2 + _LEAST_BYTES))
    # Made whole at once: what ext4 puts off is done in the background, while we measure.
    whole = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    _run("mkfs.ext4", "-q", "-F", "-i", str(_BYTES_PER_INODE), "-E", whole, str(image))
    _run("mount", "-o", "loop", str(image), str(directory))
    try:
        yield directory
    finally:
        _unmount(directory)
        image.unlink()


@contextmanager
def _tmpfs(directory: Path, size: int) -> Iterator[Path]:
    directory.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={2 * size + _LEAST_BYTES}", "tmpfs", str(directory))
    try:
        yield directory
    finally:
        _unmount(directory)


def _unmount(directory: Path) -> None:
    # A command that was told to end may be at work in it for a moment more.
    for _ in range(_TRIES):
        if not subprocess.run(["umount", str(directory)], check=False, capture_output=True).returncode:
            return
        time.sleep(0.1)
    _run("umount", "-l", str(directory))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
