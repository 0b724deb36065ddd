"""An unmounted level looks like an empty one: its marker tells. Nothing is written, missed or settled without it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.mover.beneath import Reason
from services.mover.markers import Markers
from services.mover.place import place
from services.mover.retire import lock_source
from shared.catalog import Catalog, Connections, Registry
from shared.errors import RetryError
from shared.keys import META
from shared.messages import Move, Retire
from shared.names import LEVEL_MARKER
from tests.samples import a_move, a_retire
from tests.streams import Streams, connected


@pytest.fixture
async def connections(database: str) -> AsyncIterator[Connections]:
    opened = Connections(database)
    yield opened
    await opened.close()


@pytest.fixture
async def seen(redis_db: str) -> AsyncIterator[Streams]:
    async with connected(redis_db) as scripts:
        yield Streams(scripts)


@pytest.fixture
def markers(seen: Streams, connections: Connections) -> Markers:
    return Markers(seen.redis, Catalog(connections))


def a_move_in(root: Path) -> Move:
    return a_move("7", filename="g.mp4", from_path=str(root / "bronze"), to_path=str(root / "silver"))


def a_retire_in(root: Path) -> Retire:
    return a_retire("7", filename="g.mp4", from_path=str(root / "bronze"), to_path=str(root / "silver"))


async def marked(markers: Markers, work: Move | Retire) -> frozenset[str]:
    with ThreadPoolExecutor(1) as pool:
        return await markers.of(work, pool)


def unmount(level: Path) -> None:
    """As it looks to a mover."""
    level.rename(level.with_name(f"{level.name}.away"))
    level.mkdir()


async def test_a_level_is_marked_the_first_time(markers: Markers, seen: Streams, level_root: Path) -> None:
    (level_root / "bronze" / "g.mp4").write_bytes(b"x")
    work = a_move_in(level_root)
    assert await marked(markers, work) == {work.from_path, work.to_path}
    for path in (work.from_path, work.to_path):
        assert (Path(path) / LEVEL_MARKER).is_file()
        assert await seen.redis.hexists(META, f"marked:{path}")
    assert not (level_root / "gold" / LEVEL_MARKER).exists()


async def test_a_level_that_went_away_is_not_marked_again(markers: Markers, seen: Streams, level_root: Path) -> None:
    """Seen to fail with the question to Redis taken out of `Markers._mark`."""
    work = a_move_in(level_root)
    await seen.redis.hset(META, f"marked:{work.to_path}", "1")
    with pytest.raises(RetryError) as away:
        place(work, 1, should_stop=lambda: False, is_current=lambda: True, marked=await marked(markers, work))
    assert (away.value.reason, away.value.blames) == (Reason.LEVEL_UNAVAILABLE, "target")
    assert f"{work.to_path}' has no {LEVEL_MARKER}: mount it, or" in str(away.value)
    assert list((level_root / "silver").iterdir()) == []


@pytest.mark.parametrize(("level", "side"), [("bronze", "source"), ("silver", "target")])
async def test_a_move_touches_nothing_while_either_level_is_away(
    markers: Markers, level_root: Path, level: str, side: str
) -> None:
    work = a_move_in(level_root)
    (level_root / "bronze" / "g.mp4").write_bytes(b"x")
    both = await marked(markers, work)
    unmount(level_root / level)
    with pytest.raises(RetryError) as away:
        place(work, 1, should_stop=lambda: False, is_current=lambda: True, marked=both)
    assert (away.value.reason, away.value.blames) == (Reason.LEVEL_UNAVAILABLE, side)
    assert list((level_root / level).iterdir()) == []


@pytest.mark.parametrize(("level", "side"), [("bronze", "source"), ("silver", "target")])
async def test_a_retire_is_not_called_done_while_either_level_is_away(
    markers: Markers, level_root: Path, level: str, side: str
) -> None:
    order = a_retire_in(level_root)
    for name in ("bronze", "silver"):
        (level_root / name / "g.mp4").write_bytes(b"x")
    both = await marked(markers, order)
    unmount(level_root / level)
    with pytest.raises(RetryError) as away:
        lock_source(order, marked=both)
    assert (away.value.reason, away.value.blames) == (Reason.LEVEL_UNAVAILABLE, side)


async def test_an_empty_directory_is_no_new_level_where_the_catalog_has_contents(
    markers: Markers, connections: Connections, level_root: Path
) -> None:
    """Redis was lost while a level was away: the catalog still knows. Seen to fail without `_is_bare`'s question."""
    await Registry(connections).register_many([("8", "h.mp4")], "silver")
    with pytest.raises(RetryError) as away:
        await marked(markers, a_move_in(level_root))
    assert (away.value.reason, away.value.blames) == (Reason.LEVEL_UNAVAILABLE, "target")
    assert "the catalog has 1 contents on silver" in str(away.value)
    assert list((level_root / "silver").iterdir()) == []
    (level_root / "silver" / LEVEL_MARKER).touch()
    assert len(await marked(markers, a_move_in(level_root))) == 2


async def test_the_only_content_of_a_level_may_be_missing(
    markers: Markers, connections: Connections, level_root: Path
) -> None:
    await Registry(connections).register_many([("7", "g.mp4")], "bronze")
    assert len(await marked(markers, a_move_in(level_root))) == 2


async def test_redis_is_asked_once_and_its_loss_forgets_nothing(
    markers: Markers, seen: Streams, connections: Connections, level_root: Path
) -> None:
    work = a_move_in(level_root)
    both = await marked(markers, work)
    await seen.redis.delete(META)
    unmount(level_root / "silver")
    assert await marked(markers, work) == both
    assert list((level_root / "silver").iterdir()) == []
    (level_root / "silver").rmdir()
    (level_root / "silver.away").rename(level_root / "silver")
    # Another mover finds the marker that stands, and says so again.
    assert await marked(Markers(seen.redis, Catalog(connections)), work) == both
    assert await seen.redis.hexists(META, f"marked:{work.to_path}")
