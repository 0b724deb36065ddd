"""Going through a level's files, and stray parts: real directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.audit.files import part_age_s, part_move_id, remove_part, walk
from cli.audit.sights import compare, look_at
from shared.catalog import Tracked
from shared.errors import RetryError
from shared.levels import Level, Levels

PART = ".reshelve.0197f3a0-0000-7000-8000-000000000001.2"


def names(path: Path, limit: int = 1000) -> dict[str, str]:
    return {found.filename: found.kind for page in walk(str(path), limit) for found in page}


def test_all_that_is_no_directory_is_found_and_no_link_followed(tmp_path: Path) -> None:
    level, outside = tmp_path / "level", tmp_path / "outside"
    (level / "a/b").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").touch()
    for name in ("g.mp4", "a/h.mp4", "a/b/ü.mp4", f"a/{PART}", "a/.reshelve.level", ".reshelve.level"):
        (level / name).touch()
    (level / "link").symlink_to(outside)
    os.mkfifo(level / "pipe")
    assert names(level) == {
        "g.mp4": "file",
        "a/h.mp4": "file",
        "a/b/ü.mp4": "file",
        f"a/{PART}": "file",
        "a/.reshelve.level": "file",
        "link": "symbolic link",
        "pipe": "special file",
    }


def test_pages_are_no_larger_than_asked_for(tmp_path: Path) -> None:
    for n in range(25):
        (tmp_path / f"{n}").touch()
    assert [len(page) for page in walk(str(tmp_path), 10)] == [10, 10, 5]


def test_a_level_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RetryError):
        next(walk(str(tmp_path / "no"), 1))


def test_a_part_is_told_by_its_name() -> None:
    move_id = "0197f3a0-0000-7000-8000-000000000001"
    assert part_move_id(f"a/{PART}") == part_move_id(f"{PART}.probe") == move_id
    assert [part_move_id(name) for name in (".reshelve.level", "g.mp4", f"{PART}.mp4", f"{PART}/g.mp4")] == [""] * 4


@pytest.mark.parametrize("directory", ["", "a/b/"])
def test_a_part_goes_when_it_is_old_enough(tmp_path: Path, directory: str) -> None:
    (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    part = tmp_path / directory / PART
    part.touch()
    # Its mtime is its source's where it is a hard link: only the ctime tells when it was made.
    os.utime(part, (1, 1))
    filename = directory + PART
    assert 0 <= (part_age_s(str(tmp_path), filename) or -1) < 60
    assert not remove_part(str(tmp_path), filename, 60)
    assert part.exists()
    assert remove_part(str(tmp_path), filename, 0)
    assert not part.exists()
    assert not remove_part(str(tmp_path), filename, 0)
    assert part_age_s(str(tmp_path), filename) is None
    assert part_age_s(str(tmp_path), f"gone/{PART}") is None


def two(tmp_path: Path, one: bytes, other: bytes) -> tuple[str, str]:
    for name, data in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "g").write_bytes(data)
    return str(tmp_path / "one"), str(tmp_path / "other")


def test_copies_are_compared_by_size_and_content(tmp_path: Path) -> None:
    one, other = two(tmp_path, b"film", b"film")
    assert compare("g", one, other) == "same content"
    (tmp_path / "other/g").write_bytes(b"folm")
    assert compare("g", one, other) == "other content"
    (tmp_path / "other/g").write_bytes(b"films")
    assert compare("g", one, other) == "other size"
    (tmp_path / "other/g").unlink()
    assert compare("g", one, other) == "not compared"
    (tmp_path / "other/g").hardlink_to(tmp_path / "one/g")
    assert compare("g", one, other) == "one inode"
    (tmp_path / "alias").symlink_to(tmp_path / "one")
    assert compare("g", one, str(tmp_path / "alias")) == "one entry"


def test_a_link_in_the_way_is_unreadable_and_a_missing_level_out_of_sight(tmp_path: Path) -> None:
    one, other = two(tmp_path, b"film", b"film")
    (tmp_path / "one/dir").symlink_to(tmp_path / "other")
    levels = Levels([Level("a", 0, 9, one), Level("b", 10, 19, other), Level("c", 20, 29, str(tmp_path / "no"))])
    seen = look_at([Tracked("1", "a", "dir/g", None), Tracked("2", "a", "g", None)], levels)
    assert seen.out_of_sight == {"c"}
    assert seen.sights["1"]["a"].kind == "unreadable"
    assert {name: sight.size for name, sight in seen.sights["2"].items()} == {"a": 4, "b": 4}
