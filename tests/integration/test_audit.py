"""`reshelve audit`: each thing that can be wrong is made wrong and found, and mended where that is no guess."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from shared.keys import META
from shared.messages import Tally
from shared.state.contents import Contents
from shared.state.mending import Lying, Mending
from tests.audit_world import Audited, World, at_rest
from tests.cli_running import reshelve
from tests.samples import a_move

PART = ".reshelve.0197f3a0-0000-7000-8000-000000000001.1"


@pytest.fixture
async def world(
    redis_db: str,
    database: str,
    level_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> AsyncIterator[World]:
    async with at_rest(redis_db, database, level_root, monkeypatch, capsys) as made:
        yield made


async def file_missing(world: World) -> None:
    world.file(world.cid, "silver").unlink()


async def wrong_level(world: World) -> None:
    world.put(world.cid, "gold")
    world.file(world.cid, "silver").unlink()


async def equal_second_copy(world: World) -> None:
    world.put(world.cid, "bronze")


async def linked_second_copy(world: World) -> None:
    world.file(world.cid, "gold").parent.mkdir()
    world.file(world.cid, "gold").hardlink_to(world.file(world.cid, "silver"))


async def different_second_copy(world: World) -> None:
    world.put(world.cid, "bronze", b"folm")


async def longer_second_copy(world: World) -> None:
    world.put(world.cid, "bronze", b"films")


async def second_copy_of_a_dead_letter(world: World) -> None:
    world.put(world.cid, "bronze")
    await world.state(world.cid, status="failed", move_id="m")
    await world.streams.redis.xadd(
        world.streams.scripts.of(world.cid).dead,
        {"origin": "retires", "reason": "x", "f:cid": world.cid, "f:move_id": "m"},
    )


async def size_changed(world: World) -> None:
    await world.relocated(world.cid, 5)


async def unreadable(world: World) -> None:
    (world.root / "gold/dir").symlink_to(world.root / "silver/dir")


async def move_lost(world: World) -> None:
    await world.state(world.cid, status="moving", move_id="m", target="gold", worker_id="w", attempt=2)


async def placed_lost(world: World) -> None:
    world.put(world.cid, "gold")
    await world.state(world.cid, status="done", move_id="m", target="gold", worker_id="w", attempt=2)


async def retire_lost(world: World) -> None:
    world.put(world.cid, "bronze")
    await world.state(world.cid, status="retiring", move_id="m", target="silver", attempt=0)


async def letter_lost(world: World) -> None:
    await world.state(world.cid, status="failed", move_id="m", target="gold", error="x")


async def level_differs(world: World) -> None:
    await world.state(world.cid, level="bronze")


async def review_lost(world: World) -> None:
    await world.state(world.cid, count=2500)


async def counted_and_forgotten(world: World) -> None:
    await world.streams.lose(world.cid)
    await world.streams.put_content(world.cid, count=12, at=5)


async def state_without_row(world: World) -> None:
    await world.streams.put_content("ghost", status="idle", level="silver", filename="x", count=1, at=5, version=3)


async def review_of_nothing(world: World) -> None:
    await world.streams.put_review("nothing", 2**52)


async def entry_orphaned(world: World) -> None:
    move = a_move(world.cid, from_level="silver", to_level="gold")
    await world.state(world.cid, status="update", move_id=move.move_id)
    held = await world.streams.hold("moves", move, "gone")
    await world.streams.redis.xgroup_delconsumer(world.streams.keys(held.partition).stream("moves"), "mover", "gone")


async def entry_obsolete(world: World) -> None:
    await world.streams.add("moves", a_move(world.cid), world.streams.scripts.of(world.cid).partition)


async def stray_part(world: World) -> None:
    (world.root / "gold" / PART).write_bytes(b"fi")


async def unknown_file(world: World) -> None:
    (world.root / "gold/who.mp4").touch()


async def level_missing(world: World) -> None:
    shutil.move(world.root / "silver", world.root / "away")


async def marker_missing(world: World) -> None:
    await world.streams.redis.hset(META, f"marked:{world.root / 'silver'}", "1")
    shutil.move(world.root / "silver", world.root / "away")
    (world.root / "silver").mkdir()


async def levels_unsound(world: World) -> None:
    await world.execute("UPDATE level SET max_counts = 5 WHERE content_level = 'bronze'")


Trouble = Callable[[World], Awaitable[None]]
MENDED: list[tuple[Trouble, list[str]]] = [
    (equal_second_copy, ["two_levels"]),
    (linked_second_copy, ["two_levels"]),
    (move_lost, ["move_lost"]),
    (placed_lost, ["placed_lost", "two_levels"]),
    (retire_lost, ["retire_lost", "two_levels"]),
    (letter_lost, ["letter_lost"]),
    (level_differs, ["level_differs"]),
    (review_lost, ["review_lost"]),
    (counted_and_forgotten, ["review_lost"]),
    (state_without_row, ["state_without_row"]),
    (review_of_nothing, ["review_of_nothing"]),
    (entry_orphaned, ["entry_orphaned"]),
    (stray_part, ["stray_part"]),
]
LEFT: list[tuple[Trouble, list[str]]] = [
    (file_missing, ["file_missing"]),
    (wrong_level, ["wrong_level"]),
    (different_second_copy, ["two_levels"]),
    (longer_second_copy, ["two_levels"]),
    (second_copy_of_a_dead_letter, ["two_levels"]),
    (size_changed, ["size_changed"]),
    (unreadable, ["unreadable", "unreadable", "unknown_file"]),
    (entry_obsolete, ["entry_obsolete"]),
    (unknown_file, ["unknown_file"]),
]


async def bystander(world: World) -> object:
    return await world.streams.content("bystander"), world.file("bystander", "silver").stat()


async def test_a_settled_system_is_clean(world: World) -> None:
    before = await world.everything()
    assert await world.audit() == Audited(0, [], [], [], "")
    assert await world.audit(repair=True) == Audited(0, [], [], [], "")
    assert await world.everything() == before


@pytest.mark.parametrize(("trouble", "codes"), MENDED)
async def test_what_is_no_guess_is_mended_and_nothing_else(world: World, trouble: Trouble, codes: list[str]) -> None:
    await trouble(world)
    other = await bystander(world)
    found = await world.audit()
    assert (found.code, found.codes) == (1, codes)
    mended = await world.audit(repair=True)
    assert mended.code == 0, mended
    assert [repair["code"] for repair in mended.repairs] == codes
    assert all(repair["mended"] for repair in mended.repairs)
    assert await world.audit(repair=True) == Audited(0, [], [], [], ""), "once is enough, twice does no harm"
    assert await bystander(world) == other
    assert world.file("7", "silver").read_bytes() == b"film"
    assert not world.file("7", "bronze").exists()
    assert not world.file("7", "gold").exists()


@pytest.mark.parametrize(("trouble", "codes"), LEFT)
async def test_what_would_be_a_guess_is_found_and_left(world: World, trouble: Trouble, codes: list[str]) -> None:
    await trouble(world)
    before = await world.everything()
    found = await world.audit(repair=True)
    assert (found.code, sorted(found.codes), found.repairs) == (1, sorted(codes), [])
    assert await world.everything() == before


@pytest.mark.parametrize(
    ("trouble", "code"),
    [(level_missing, "level_missing"), (marker_missing, "level_missing"), (levels_unsound, "levels_unsound")],
)
async def test_nothing_is_mended_while_a_level_is_not_as_it_should_be(
    world: World, trouble: Trouble, code: str
) -> None:
    await review_lost(world)
    await trouble(world)
    before = await world.everything()
    found = await world.audit(repair=True)
    assert found.code == 2
    assert found.codes[0] == code
    assert "file_missing" not in found.codes, "one line says it for all of the level's contents"
    assert "see to the levels first" in found.error
    assert await world.everything() == before


async def test_a_lost_move_is_idle_and_up_for_review_and_keeps_its_count(world: World) -> None:
    await move_lost(world)
    await world.audit(repair=True)
    mended = await world.streams.content("7")
    assert mended == {
        "level": "silver", "filename": "dir/7.mp4", "count": "1500", "at": "5", "status": "idle", "version": "4"
    }  # fmt: skip
    assert "7" in await world.streams.reviews()


async def test_looking_and_dry_runs_change_nothing_at_all(world: World) -> None:
    expected: list[str] = []
    for n, (trouble, codes) in enumerate((*MENDED, *LEFT)):
        world.cid = f"c{n}"
        if trouble is not unreadable:  # it would be in the way of the others
            await world.settle(world.cid)
            await trouble(world)
            expected += codes
    before = await world.everything()
    found = await world.audit()
    assert (found.code, sorted(found.codes), found.would) == (1, sorted(expected), [])
    dry = await world.audit(repair=True, dry_run=True)
    assert (dry.code, dry.findings, dry.repairs) == (1, found.findings, [])
    assert len(dry.would) == sum(len(codes) for _, codes in MENDED)
    assert await world.everything() == before
    assert (await world.audit(repair=True)).repairs
    assert await world.everything() != before


async def test_nothing_is_mended_where_too_much_is_affected(world: World) -> None:
    for n in range(8):
        await world.settle(f"c{n}")
    await review_lost(world)
    await world.state("bystander", status="moving", move_id="m")
    before = await world.everything()
    refused = await world.audit(repair=True, max_share=0.1)
    assert refused.code == 2
    assert refused.codes == ["review_lost", "move_lost"]
    assert "more than 1 are affected" in refused.error
    assert await world.everything() == before
    assert (await world.audit(repair=True, max_share=0.2)).code == 0


async def test_a_file_that_somebody_works_on_is_left_alone(world: World) -> None:
    """Without the age every part that a mover is about to publish is stray for a moment after its lease."""
    await equal_second_copy(world)
    await stray_part(world)
    aged = await world.audit(repair=True, min_age_s=600)
    assert (aged.code, aged.codes) == (1, ["two_levels"])
    assert "may be somebody's" in aged.repairs[0]["why_not"]
    with world.file("7", "bronze").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        busy = await world.audit(repair=True)
    assert "locked by another process" in busy.repairs[0]["why_not"]
    assert world.file("7", "bronze").exists()
    assert (await world.audit(repair=True)).code == 0


async def test_a_part_of_an_open_move_is_none_of_ours(world: World) -> None:
    move = a_move("7", move_id=PART.split(".")[2])
    await stray_part(world)
    await world.state("7", status="update", move_id=move.move_id)
    await world.streams.add("moves", move, world.streams.scripts.of("7").partition)
    assert await world.audit(repair=True) == Audited(0, [], [], [], "")
    assert (world.root / "gold" / PART).exists()


async def test_levels_that_are_one_directory_keep_their_only_copy(world: World) -> None:
    """Taken for two copies, the removal of one would be that of the only one."""
    (world.root / "gold").rmdir()
    (world.root / "gold").symlink_to(world.root / "silver")
    found = await world.audit(repair=True)
    assert found.codes == ["two_levels", "two_levels"]
    assert all("one entry" in finding["detail"] for finding in found.findings)
    assert found.repairs == []
    assert world.file("7", "silver").read_bytes() == b"film"


async def test_a_state_that_changed_since_the_look_is_not_mended(world: World) -> None:
    await move_lost(world)
    mending = Mending(world.streams.scripts)
    (state,) = await Contents(world.streams.scripts).read(["7"])
    changes: list[dict[str, str | int]] = [
        {"version": 4},
        {"attempt": 3},
        {"worker_id": "v"},
        {"move_id": "n"},
        {"status": "update"},
    ]
    for change in changes:
        await move_lost(world)
        await world.streams.put_content("7", **change)
        before = await world.everything()
        assert not await mending.mend(state, "silver", "dir/7.mp4")
        assert await world.everything() == before
    await move_lost(world)
    assert await mending.mend(state, "silver", "dir/7.mp4")


async def test_an_orphaned_entry_of_views_is_delivered_once_more_and_only_once(world: World) -> None:
    views = Tally({"7": 3}, {})
    entry_id = (await world.streams.add("views", views)).decode()
    mending = Mending(world.streams.scripts)
    orphan = Lying("views", 2, entry_id, "views", "", "")
    assert not await mending.requeue(orphan), "not delivered yet"
    await world.streams.deliver("views", "gone")
    assert not await mending.requeue(orphan), "in somebody's hands"
    assert (await world.audit()).codes == []
    await world.streams.redis.xgroup_delconsumer(world.streams.keys().stream("views"), "planner", "gone")
    assert (await world.audit()).codes == ["entry_orphaned"]
    assert [await mending.requeue(orphan) for _ in range(3)] == [True, False, False]
    (entry,) = await world.streams.deliver("views", "heir")
    assert entry.fields == {b"v1": views.pack()}


def test_what_cannot_run_exits_with_2(tmp_path: Path) -> None:
    servers = {"RESHELVE_REDIS_URL": "redis://127.0.0.1:1", "RESHELVE_MYSQL_URL": "mysql://u:p@127.0.0.1:1/d"}
    done = reshelve("audit", at=tmp_path, **servers)
    assert done.returncode == 2
    assert "Redis does not answer" in done.stderr


def test_the_command_says_one_line_a_finding(tmp_path: Path, database: str, redis_db: str, level_root: Path) -> None:
    (level_root / "gold/a\nb").touch()
    servers = {"RESHELVE_REDIS_URL": redis_db, "RESHELVE_MYSQL_URL": database}
    done = reshelve("audit", at=tmp_path, **servers)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        r"unknown_file      'gold/a\nb: in no row'",
        "looked at 0 contents and 1 file: 1 finding (unknown_file 1)",
    ]
