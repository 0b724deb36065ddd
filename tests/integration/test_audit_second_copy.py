"""Removing a second copy: whatever an audit was told before, it is proven again under lock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.audit.second_copy import remove_second_copy
from cli.session import opened
from shared.catalog import Tracked
from tests.audit_world import World, at_rest

ROW = Tracked("7", "silver", "dir/7.mp4", None)


@pytest.fixture
async def world(
    redis_db: str,
    database: str,
    level_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> AsyncIterator[World]:
    async with at_rest(redis_db, database, level_root, monkeypatch, capsys) as made:
        made.put("7", "bronze")
        yield made


async def removal(world: World, min_age_s: float = 0) -> str:
    async with opened(world.root) as session:
        levels = await session.catalog.levels()
        named, other = levels.get("silver"), levels.get("bronze")
        assert named is not None
        assert other is not None
        return await remove_second_copy(session, ROW, named, other, min_age_s)


async def test_a_proven_second_copy_goes_with_the_directory_that_it_leaves_empty(world: World) -> None:
    assert await removal(world) == ""
    assert not (world.root / "bronze/dir").exists()
    assert world.file("7", "silver").read_bytes() == b"film"


async def test_a_copy_that_differs_is_never_removed(world: World) -> None:
    before = world.disk()
    for data, why in ((b"folm", "different content"), (b"films", "different sizes")):
        world.put("7", "bronze", data)
        before = world.disk()
        assert why in await removal(world)
        assert world.disk() == before


async def test_the_copy_that_mysql_names_by_now_stays(world: World) -> None:
    await world.execute("UPDATE contents SET content_level = 'bronze' WHERE cid = '7'")
    before = world.disk()
    assert "MySQL says ('bronze'" in await removal(world)
    await world.execute("DELETE FROM contents WHERE cid = '7'")
    assert "MySQL says None" in await removal(world)
    assert world.disk() == before


async def test_a_content_that_is_moved_by_now_is_left_to_its_movers(world: World) -> None:
    before = world.disk()
    for status in ("update", "moving", "done", "retiring", "failed"):
        await world.state("7", status=status, move_id="m")
        assert await removal(world) == f"its status is {status} by now"
    assert world.disk() == before


async def test_a_copy_made_a_moment_ago_stays(world: World) -> None:
    before = world.disk()
    assert "may be somebody's" in await removal(world, min_age_s=600)
    assert world.disk() == before
