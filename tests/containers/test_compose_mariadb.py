"""MariaDB in MySQL's place, and each level a file system of its own: files are copied, and more movers copy more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.containers.composed import COMPOSE, ONLOOKER, Composed, composed
from tests.containers.traffic import traffic

_FILES = ("deploy/compose/mariadb.yml", "deploy/compose/own-mounts.yml", "tests/containers/own-mounts.yml")
_CONTENTS, _BYTES = 32, 8 << 20
_COUNTS = {"silver": 1500, "gold": 2500}


@pytest.fixture(scope="module")
def stack(checkout: Path, image: str) -> Iterator[Composed]:
    with composed(checkout, image, COMPOSE, ONLOOKER, *_FILES) as project:
        project.up()
        yield project


async def test_files_are_copied_from_mount_to_mount_while_views_come_in(stack: Composed) -> None:
    assert "MariaDB" in await asyncio.to_thread(stack.logs, "mysql")
    digests = await asyncio.to_thread(stack.ask, "stock", contents=60, size=50_000, prefix="maria")
    async with traffic(stack, list(digests)) as running:
        await asyncio.sleep(4)
    word = await asyncio.to_thread(stack.judge, digests, running.counts)
    assert word["relocations"] > 60
    assert (await asyncio.to_thread(stack.ask, "pace", prefix="maria"))["methods"] == "copy"
    assert await asyncio.to_thread(stack.errors) == []


async def test_four_movers_copy_more_than_one(stack: Composed) -> None:
    """Each round sends all files to another level. The best of a few counts: memory is slow when first touched."""
    digests = await asyncio.to_thread(stack.ask, "stock", contents=_CONTENTS, size=_BYTES, prefix="bulk")
    paces: dict[int, list[float]] = {}
    for movers in (1, 4):
        await asyncio.to_thread(stack.scale_to, "mover", movers)
        paces[movers] = [await _round(stack, digests, level) for level in ("silver", "gold")]
    one, four = max(paces[1]), max(paces[4])
    figures = f"{four / one:.1f} times as fast: {one:.1f} and {four:.1f} relocations/s of {_BYTES >> 20} MiB {paces}"
    print(figures)  # noqa: T201  # with -s, or where it fails
    assert four > 1.5 * one, figures


async def _round(stack: Composed, digests: dict[str, str], level: str) -> float:
    """Relocations per second, from the first plan to the last commit."""
    before = await asyncio.to_thread(stack.ask, "pace", prefix="bulk")
    headers = {"Authorization": f"Bearer {await asyncio.to_thread(stack.token, 'producer')}"}
    counts = dict.fromkeys(digests, _COUNTS[level])
    views = [{"cid": cid, "count": count} for cid, count in counts.items()]
    url = f"{stack.http}/v1/views"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=views) as answer:
        assert answer.status == 202
    await asyncio.to_thread(stack.judge, digests, counts)
    after = await asyncio.to_thread(stack.ask, "pace", prefix="bulk", since=before["last"])
    assert after["relocations"] == len(digests)
    return float(after["relocations"] / after["seconds"])
