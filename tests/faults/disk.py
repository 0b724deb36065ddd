"""A disk of its own for a level: it can be taken away, made read-only, and filled up.

Where we may mount, it is a tmpfs, and the level's directory a mount of what lies on it: the files are there again when
it is mounted again. Elsewhere, the directory is moved aside and an empty one, as a mount point is, put in its place.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SIZE_MB = 16
_CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    """Also root may not, in most containers."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)


@dataclass
class Disk:
    """`path` is the level's directory."""

    path: Path
    _store: Path
    _mounted: bool
    _is_away: bool = True

    @classmethod
    @contextmanager
    def prepared(cls, home: Path) -> Iterator[Disk]:
        """Empty, and there."""
        disk = cls(home / "level", home / "store" / "files", may_mount())
        disk.path.mkdir()
        disk._store.parent.mkdir()
        if not disk._mounted:
            disk._is_away = False
            yield disk
            return
        _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m", "reshelve-test", disk._store.parent)
        try:
            disk._store.mkdir()
            disk.back()
            yield disk
        finally:
            disk.mend()
            disk.away()
            # Lazily: a mover that was killed may not be quite gone.
            _run("umount", "-l", disk._store.parent)

    def away(self) -> None:
        """Unmount it; what is open on it stays open."""
        if self._mounted:
            _run("umount", "-l", self.path)
        else:
            self.path.rename(self._store)
            self.path.mkdir()
        self._is_away = True

    def back(self) -> None:
        """Mount it again."""
        if self._mounted:
            _run("mount", "--bind", self._store, self.path)
        else:
            self.path.rmdir()
            self._store.rename(self.path)
        self._is_away = False

    def read_only(self) -> None:
        """Nothing can be made on it; where we may not mount, for want of permission."""
        if self._mounted:
            _run("mount", "-o", "remount,bind,ro", self.path)
        else:
            self.path.chmod(0o555)

    def writable(self) -> None:
        if self._mounted:
            _run("mount", "-o", "remount,bind,rw", self.path)
        else:
            self.path.chmod(0o755)

    def fill(self) -> None:
        """Not one block is free: by a file beside the level's directory."""
        chunk = bytes(1 << 20)
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while ballast.write(chunk):
                    pass
            except OSError:
                return

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def mend(self) -> None:
        """As it was prepared, whatever was done to it."""
        if self._is_away:
            self.back()
        self.writable()
        self.make_room()

    @property
    def _ballast(self) -> Path:
        return self._store.parent / "ballast"


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
