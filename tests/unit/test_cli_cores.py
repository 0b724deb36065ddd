"""The pure parts of the commands."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from cli import status
from cli.demo import lower_some
from cli.importing import level_of
from cli.migrate import sample_levels
from cli.samples import make_samples
from cli.status_view import render
from cli.terminal import shown, size
from cli.verify import files_on, history_faults
from cli.walk import cid_of, walk
from cli.zipf import mean_views_for, zipf_reports
from shared.catalog.catalog import LevelChange, Relocation
from shared.errors import InvalidError
from shared.levels import Level, Levels

LEVELS = Levels([Level("bronze", 0, 999, "/b"), Level("silver", 1000, 1999, "/s"), Level("gold", 2000, 3001, "/g")])
CIDS = [str(number) for number in range(1, 101)]


class TestZipf:
    def test_the_same_seed_makes_the_same_reports(self) -> None:
        assert zipf_reports(CIDS, 500, 10, seed=1) == zipf_reports(CIDS, 500, 10, seed=1)
        assert zipf_reports(CIDS, 500, 10, seed=1) != zipf_reports(CIDS, 500, 10, seed=2)

    def test_the_first_gets_about_ten_times_what_the_tenth_gets(self) -> None:
        reports = Counter(report.cid for report in zipf_reports(CIDS, 100_000, 1, seed=3))
        ranked = [count for _, count in reports.most_common()]
        assert 8 < ranked[0] / ranked[9] < 12
        assert sum(ranked) == 100_000

    def test_views_lie_about_their_mean(self) -> None:
        views = [report.views for report in zipf_reports(CIDS, 10_000, 38, seed=4)]
        assert min(views) >= 1
        assert max(views) <= 75
        assert 36 < sum(views) / len(views) < 40

    @pytest.mark.parametrize(("contents", "reports"), [(5, 100), (60, 2000), (300, 20_000), (5000, 20_000)])
    def test_about_a_fifth_comes_to_the_highest_level(self, contents: int, reports: int) -> None:
        cids = [str(number) for number in range(contents)]
        counts: Counter[str] = Counter()
        for report in zipf_reports(cids, reports, mean_views_for(contents, reports, 2000), seed=5):
            counts[report.cid] += report.views
        high = sum(count >= 2000 for count in counts.values())
        assert contents // 10 <= high <= contents // 3 + 1

    def test_even_a_flood_of_reports_has_a_view_in_each(self) -> None:
        assert mean_views_for(5, 1_000_000, 2000) == 1


def test_samples_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, other = (make_samples(tmp_path / name, 20, seed=1) for name in ("one", "other"))
    assert one == other
    assert len({sample.filename for sample in one}) == 20
    assert any("/" in sample.filename for sample in one)
    assert all((tmp_path / "one" / sample.filename).is_file() for sample in one)


def test_lowered_counts_ask_for_a_lower_level() -> None:
    counts = {cid: int(cid) * 30 for cid in CIDS}
    lowered = lower_some(counts, LEVELS, seed=1)
    assert len(lowered) == sum(count >= 1000 for count in counts.values()) // 2 + 1
    for cid, count in lowered.items():
        assert LEVELS.level_for(count).min_counts < LEVELS.level_for(counts[cid]).min_counts


class TestCidOf:
    @pytest.mark.parametrize(
        ("filename", "cid_from", "cid"),
        [
            ("7.mp4", "stem", "7"),
            ("shows/2026/ep.01.mp4", "stem", "ep.01"),
            ("noext", "stem", "noext"),
            (".hidden", "stem", ".hidden"),
            ("shows/ep.mp4", "name", "ep.mp4"),
            ("shows/ep.mp4", "path", "27b1895894c5a891"),
        ],
    )
    def test_from_the_filename(self, filename: str, cid_from: str, cid: str) -> None:
        assert cid_of(filename, cid_from) == cid  # type: ignore[arg-type]

    def test_a_name_that_is_no_cid_says_what_helps(self) -> None:
        with pytest.raises(InvalidError, match="use --cid-from path"):
            cid_of("holiday pictures.zip", "stem")

    def test_any_path_has_a_cid(self) -> None:
        assert len(cid_of("holiday pictures/\x1b[31m.zip", "path")) == 16


class TestWalk:
    def test_takes_regular_files_only(self, tmp_path: Path) -> None:
        level = tmp_path / "bronze"
        (level / "sub" / "deep").mkdir(parents=True)
        for name in ("7.mp4", "sub/8.mp4", "sub/deep/9.mp4", ".reshelve.018f.1", "with space.mp4"):
            (level / name).write_text("x")
        (level / ".reshelve.probe").mkdir()
        (level / ".reshelve.probe" / "10.mp4").write_text("x")
        (tmp_path / "outside.mp4").write_text("x")
        (level / "link.mp4").symlink_to(tmp_path / "outside.mp4")
        (level / "loop").symlink_to(level)
        os.mkfifo(level / "fifo")
        found = walk(str(level), level, "stem", lambda _: None)
        assert sorted(found.contents) == [("7", "7.mp4"), ("8", "sub/8.mp4"), ("9", "sub/deep/9.mp4")]
        assert [filename for filename, _ in found.refused] == ["with space.mp4"]
        assert found.skipped == {"symbolic link": 2, "mover's own": 2, "special file": 1}

    def test_names_are_relative_to_the_level_not_to_where_the_walk_begins(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "8.mp4").write_text("x")
        found = walk(str(tmp_path), tmp_path / "sub", "stem", lambda _: None)
        assert found.contents == [("8", "sub/8.mp4")]

    def test_hostile_names_are_refused_one_by_one(self, tmp_path: Path) -> None:
        for name in (b"\xff\xfe.mp4", b"trailing ", b"new\nline.mp4", b"-rf.mp4"):
            (tmp_path / os.fsdecode(name)).touch()
        by_name = walk(str(tmp_path), tmp_path, "stem", lambda _: None)
        assert [cid for cid, _ in by_name.contents] == ["-rf"]
        assert len(by_name.refused) == 3
        by_path = walk(str(tmp_path), tmp_path, "path", lambda _: None)
        assert len(by_path.contents) == 2
        assert sorted(reason[:30] for _, reason in by_path.refused) == [
            "filename ends with a space: re",
            "filename is not valid UTF-8: r",
        ]

    def test_of_two_files_with_one_cid_the_same_one_is_always_taken(self, tmp_path: Path) -> None:
        for name in ("b/7.mp4", "a/7.mp4", "7.avi"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        found = walk(str(tmp_path), tmp_path, "stem", lambda _: None)
        assert found.contents == [("7", "7.avi")]
        assert all("use --cid-from path" in reason for _, reason in found.refused)
        assert len(walk(str(tmp_path), tmp_path, "path", lambda _: None).contents) == 3


class TestLevelOf:
    def test_finds_the_level_that_a_directory_lies_on(self, tmp_path: Path) -> None:
        levels = sample_levels(tmp_path)
        assert level_of(tmp_path / "silver", levels, None).content_level == "silver"
        assert level_of(tmp_path / "silver" / "sub", levels, "silver").content_level == "silver"

    def test_a_level_reached_through_a_link_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "bronze").symlink_to(tmp_path / "real")
        assert level_of(tmp_path / "real", sample_levels(tmp_path), None).content_level == "bronze"

    @pytest.mark.parametrize(
        ("directory", "name", "message"),
        [
            ("elsewhere", None, "lies on no level"),
            ("silver", "gold", "lies on silver, not on gold"),
            ("silver", "platinum", "there is no level platinum: the levels are bronze in /"),
            ("silverware", None, "lies on no level"),
        ],
    )
    def test_says_where_the_levels_are(self, tmp_path: Path, directory: str, name: str | None, message: str) -> None:
        with pytest.raises(InvalidError, match=message):
            level_of(tmp_path / directory, sample_levels(tmp_path), name)


def relocation(source: str, target: str) -> Relocation:
    return Relocation("m", source, target, 1, "", 1, "", "link", "me", 1, 1, 1, 1)


def change(source: str, target: str) -> LevelChange:
    return LevelChange(1, 1, source, 1, target)


class TestHistoryFaults:
    def test_none_where_the_way_leads_there(self) -> None:
        moved = [relocation("silver", "gold"), relocation("bronze", "silver")]
        changed = [change("silver", "gold"), change("bronze", "silver")]
        assert history_faults(moved, changed, "bronze", "gold") == []
        assert history_faults([], [], "bronze", "bronze") == []

    def test_a_missing_row(self) -> None:
        assert history_faults([relocation("bronze", "silver")], [], "bronze", "silver")

    def test_a_row_twice(self) -> None:
        once = [relocation("bronze", "silver")]
        assert history_faults(once * 2, [change("bronze", "silver")], "bronze", "silver")
        assert history_faults(once * 2, [change("bronze", "silver")] * 2, "bronze", "silver")

    def test_a_gap(self) -> None:
        moved = [relocation("silver", "gold")]
        assert history_faults(moved, [change("silver", "gold")], "bronze", "gold")


def test_a_file_on_two_levels_is_seen_on_both(tmp_path: Path) -> None:
    for name in ("bronze/sub", "silver/sub", "gold"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("bronze/sub/7.mp4", "silver/sub/7.mp4", "gold/.reshelve.018f.1"):
        (tmp_path / name).write_text("x")
    assert files_on(sample_levels(tmp_path)) == {"sub/7.mp4": ["bronze", "silver"], ".reshelve.018f.1": ["gold"]}


def test_a_status_without_a_terminal_is_whole_lines() -> None:
    path = "/a/very/long/path" * 20
    found = status.Status(
        partitions=8,
        levels=[
            status.LevelStatus("bronze", 0, 999, path, 100_000, 2048, 4096),
            status.LevelStatus(":smile:", 1000, 1999, "/[red]x", 0, None, None),
        ],
        streams=[status.StreamStatus("views", 3, 1, 0.5), status.StreamStatus("moves", 0, 0, None)],
        reviews=1,
        later=0,
        dead_letters=2,
        consumers=[status.ConsumerStatus("mover", "host-1", 2, 300, ["moves", "retires"])],
    )
    out = io.StringIO()
    Console(file=out, width=10_000, markup=False, emoji=False, highlight=False).print(render(found))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["bronze", "0-999", "100,000", "2.0", "KiB", path] in lines
    assert [":smile:", "1000-1999", "0", "not", "visible", "/[red]x"] in lines
    assert ["views", "3", "1", "0.5", "s"] in lines
    assert ["moves", "0", "0"] in lines
    assert "1 review, 0 waiting for a retry, 2 dead letters" in out.getvalue()
    assert ["mover", "host-1", "moves,", "retires", "2", "0.3", "s"] in lines
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (84239233024, "78.5 GiB"), (2**62, "4096.0 PiB")],
)
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text


def test_a_name_cannot_reach_the_terminal() -> None:
    assert shown("ö.mp4") == "ö.mp4"
    assert shown("\x1b[31m") == r"'\x1b[31m'"
    assert shown("\udcff.mp4") == r"'\udcff.mp4'"
