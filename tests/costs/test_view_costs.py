"""What a view costs in Redis, counted in commands: seconds differ from machine to machine, counts do not.

Commands that scripts run are counted too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.servers import PrivateRedis
from services.planner.__main__ import plan
from services.planner.settings import PlannerSettings
from services.planner.tally import Tallying
from shared.messages import Tally
from shared.settings import SecretStr
from shared.state.moves import DeadLetters
from shared.state.views import Part, Tallies, Views
from tests.consumers import Lines, consuming, until
from tests.loops import at_work
from tests.samples import cids_of
from tests.streams import PARTITIONS, P, Streams, now_ms

CONTENTS = 500
ENTRIES = 20
CIDS = cids_of(P, CONTENTS, PARTITIONS)
EVERY_CONTENT = Tally(dict.fromkeys(CIDS, 3), {})
BAND: dict[str, str | int] = {"level": "silver", "status": "idle", "lo": 1000, "hi": 2000, "count": 1100}


@pytest.fixture
def redis_db(tmp_path: Path) -> Iterator[str]:
    """A server of our own: its statistics know no one else's commands."""
    with PrivateRedis.start(tmp_path / "redis") as server:
        yield server.url


async def calls(redis: Any) -> dict[str, int]:
    """How often each command ran, since the server's start."""
    return {
        name.removeprefix("cmdstat_"): row["calls"]
        for name, row in (await redis.info("commandstats")).items()
        if name not in {"cmdstat_info", "cmdstat_xlen"}
    }


def since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in after.items() if n > before.get(name, 0)}


async def cost_of_counting(seen: Streams, redis_url: str) -> dict[str, int]:
    """The commands from publishing to counting: 20 entries, each with 3 views of 500 contents at rest."""
    before = await calls(seen.redis)
    for number in range(ENTRIES):
        await Views(seen.scripts).publish({P: [Part(f"batch-{number}", 60_000, EVERY_CONTENT.pack())]})
    stop = asyncio.Event()
    async with consuming(seen.scripts, redis_url, ["views"], stop=stop) as consumer:
        tallying = Tallying(
            consumer, Tallies(seen.scripts), DeadLetters(seen.scripts), Lines().log, crossed=lambda: None
        )
        running = asyncio.create_task(tallying.run(512, stop))

        async def counted() -> bool:
            return not await seen.redis.xlen(seen.keys().stream("views"))

        await until(counted)
        after = await calls(seen.redis)
        stop.set()
        await running
    return since(before, after)


async def test_counting_costs_two_commands_however_many_views_and_entries_and_contents(
    seen: Streams, redis_db: str
) -> None:
    for cid in CIDS:
        await seen.put_content(cid, **BAND, at=now_ms())
    spent = await cost_of_counting(seen, redis_db)
    assert (await seen.content(CIDS[0]))["count"] == str(1100 + 3 * ENTRIES)
    # All entries are summed first. 30,000 views of 500 contents came in; a command each would be 30,000.
    # Never more than two calls: one, unless the planner found a part of the entries.
    assert spent["hmget"] == spent["hset"] <= 2
    assert "zadd" not in spent
    # An entry costs its publishing, and a share in the rest.
    assert spent["xadd"] == ENTRIES
    assert spent["xack"] == spent["xdel"] <= 2
    assert sum(spent.values()) <= 5 * ENTRIES + 64, spent


async def test_putting_contents_up_for_review_costs_one_command_more(seen: Streams, redis_db: str) -> None:
    for cid in CIDS:
        await seen.put_content(cid, **BAND | {"count": 1999}, at=now_ms())
    spent = await cost_of_counting(seen, redis_db)
    assert len(await seen.reviews()) == CONTENTS
    assert spent["hmget"] == spent["hset"] <= 2
    assert spent["zadd"] <= 2


async def idle_second(redis_url: str, mysql_url: str, seen: Streams) -> int:
    """The commands of a planner that has nothing to do, in a second."""
    settings = PlannerSettings(redis_url=SecretStr(redis_url), mysql_url=SecretStr(mysql_url), partitions=PARTITIONS)
    async with at_work(plan, settings):
        await asyncio.sleep(1)
        before = await calls(seen.redis)
        await asyncio.sleep(2)
        return sum(since(before, await calls(seen.redis)).values()) // 2


async def test_an_idle_planner_costs_the_same_whatever_the_number_of_contents(
    seen: Streams, redis_db: str, database: str
) -> None:
    few = await idle_second(redis_db, database, seen)
    for cid in CIDS:
        await seen.put_content(cid, **BAND, at=now_ms())
    many = await idle_second(redis_db, database, seen)
    # Four partitions: reviews asked for a few times a second, the streams waited on, the level table's fingerprint.
    assert few <= 40 * PARTITIONS
    assert many <= 1.2 * few + 5
