"""What the levels hold, for people to watch: worked out by one replica, seldom, and shown by all."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import REGISTRY

from services.mover.survey import Survey, bytes_below, room_at
from services.recorder.census import Census
from shared import metrics
from shared.catalog import Catalog, Connections
from shared.figures import Figures
from shared.keys import META, WORKING_OUT
from shared.log import Log
from shared.names import LEVEL_MARKER
from tests.streams import Streams, connected
from tests.tables import Tables

LOG: Log = structlog.get_logger()


@pytest.fixture(autouse=True)
def _nothing_shown() -> None:
    for gauge in (metrics.LEVEL_CONTENTS, metrics.LEVEL_BYTES, metrics.LEVEL_FREE_BYTES, metrics.LEVEL_SIZE_BYTES):
        gauge.clear()


@pytest.fixture
async def seen(redis_db: str) -> AsyncIterator[Streams]:
    async with connected(redis_db) as scripts:
        yield Streams(scripts)


@pytest.fixture
async def catalog(database: str) -> AsyncIterator[Catalog]:
    connections = Connections(database)
    yield Catalog(connections)
    await connections.close()


def shown(metric: str, level: str) -> float | None:
    return REGISTRY.get_sample_value(metric, {"level": level})


def contents_shown(*levels: str) -> list[float | None]:
    return [shown("reshelve_level_contents", level) for level in levels]


async def run_briefly(thing: Census | Survey, until: str, level: str, value: float | None) -> None:
    """Until the metric has the value; fails after ten seconds."""
    stop = asyncio.Event()
    running = asyncio.create_task(thing.run(stop))
    deadline = time.monotonic() + 10
    while shown(until, level) != value:
        assert time.monotonic() < deadline, f"{until} of {level} is {shown(until, level)}, not {value}"
        await asyncio.sleep(0.02)
    stop.set()
    await running


# --- contents, counted by one recorder ------------------------------------------------------------------------------


async def test_one_recorder_counts_and_all_show_it(seen: Streams, catalog: Catalog, database: str) -> None:
    """Seen to fail with the lock taken out of `Figures.work_out`: the second one counts anew."""
    tables = Tables(database)
    for n in range(3):
        await tables.put(f"c{n}")
    await run_briefly(Census(catalog, seen.redis, LOG), "reshelve_level_contents", "bronze", 3)
    assert contents_shown("silver", "gold") == [0, 0]
    await tables.put("c9")
    other = Census(catalog, seen.redis, LOG)
    other.show({"bronze": 77})
    await run_briefly(other, "reshelve_level_contents", "bronze", 3)


async def test_a_level_that_is_gone_is_no_longer_shown(seen: Streams, catalog: Catalog) -> None:
    census = Census(catalog, seen.redis, LOG)
    census.show({"bronze": 1, "platinum": 2})
    assert contents_shown("platinum") == [2]
    census.show({"bronze": 1})
    assert contents_shown("bronze", "platinum") == [1, None]


async def test_a_figure_is_left_alone_a_hundred_times_as_long_as_it_took(seen: Streams) -> None:
    async def work() -> dict[str, int]:
        await asyncio.sleep(0.2)
        return {"x": 1}

    figures = Figures(seen.redis, period_s=1)
    assert await figures.work_out("slow", work)
    assert not await figures.work_out("slow", work)
    assert await figures.read("slow") == {"x": 1}
    assert 19_000 < await seen.redis.pttl(WORKING_OUT + "slow") < 40_000


async def test_work_that_failed_is_done_by_others_after_the_lease(seen: Streams) -> None:
    async def work() -> dict[str, int]:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011  # any
        await Figures(seen.redis, period_s=600).work_out("broken", work)
    assert 0 < await seen.redis.pttl(WORKING_OUT + "broken") <= 30_000


# --- room and bytes, seen by movers ---------------------------------------------------------------------------------


def test_the_room_is_what_the_file_system_says(tmp_path: Path) -> None:
    room = room_at(str(tmp_path), marked=False)
    found = os.statvfs(tmp_path)
    assert room is not None
    assert room.size_bytes == found.f_blocks * found.f_frsize
    assert 0 < room.free_bytes <= room.size_bytes


def test_a_level_that_is_away_has_no_room_rather_than_another_s(tmp_path: Path) -> None:
    """Seen to fail with the marker's question taken out of `room_at`: the root's file system answers."""
    assert room_at(str(tmp_path), marked=True) is None
    (tmp_path / LEVEL_MARKER).touch()
    assert room_at(str(tmp_path), marked=True) is not None
    assert room_at(str(tmp_path / "missing"), marked=False) is None


def test_bytes_are_those_of_the_files_beneath_and_of_nothing_that_links_lead_to(tmp_path: Path) -> None:
    level = tmp_path / "bronze"
    (level / "a" / "b").mkdir(parents=True)
    for name, size in (("one", 5), ("a/two", 70), ("a/b/three", 900)):
        (level / name).write_bytes(b"x" * size)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "big").write_bytes(b"x" * 10_000)
    (level / "link").symlink_to(tmp_path / "elsewhere")
    (level / "a" / "file").symlink_to(tmp_path / "elsewhere" / "big")
    assert bytes_below(str(level), lambda: False) == 975
    assert bytes_below(str(tmp_path / "missing"), lambda: False) is None


def test_a_walk_rests_nine_tenths_of_its_time_and_ends_when_told(tmp_path: Path) -> None:
    """Seen to fail with the rest taken out of `bytes_below`."""
    for n in range(4000):
        (tmp_path / str(n)).touch()
    cpu, wall = time.thread_time(), time.monotonic()
    assert bytes_below(str(tmp_path), lambda: False) == 0
    cpu, wall = time.thread_time() - cpu, time.monotonic() - wall
    assert wall > cpu * 4
    assert bytes_below(str(tmp_path), lambda: True) is None


async def test_a_mover_shows_the_room_and_the_bytes_of_its_levels(
    seen: Streams, catalog: Catalog, level_root: Path
) -> None:
    (level_root / "bronze" / "g.mp4").write_bytes(b"x" * 4321)
    await run_briefly(Survey(catalog, seen.redis, LOG, ()), "reshelve_level_bytes", "bronze", 4321)
    size = os.statvfs(level_root)
    for level in ("bronze", "silver", "gold"):
        assert shown("reshelve_level_size_bytes", level) == size.f_blocks * size.f_frsize
    assert REGISTRY.get_sample_value("reshelve_flip_flops_total", {"from": "gold", "to": "bronze"}) is not None
    await seen.redis.hset(META, f"marked:{level_root}/silver", "1")
    await run_briefly(Survey(catalog, seen.redis, LOG, ()), "reshelve_level_free_bytes", "silver", None)
    assert shown("reshelve_level_size_bytes", "bronze")


async def test_a_mover_looks_only_where_it_may(seen: Streams, catalog: Catalog, level_root: Path) -> None:
    allowed = (str(level_root / "gold"),)
    await run_briefly(Survey(catalog, seen.redis, LOG, allowed), "reshelve_level_bytes", "gold", 0)
    assert shown("reshelve_level_free_bytes", "gold")
    assert shown("reshelve_level_free_bytes", "bronze") is None
    assert await Figures(seen.redis, 1).read("bytes/bronze") == {}
