"""What a service shows before it has done anything: all its series, at 0, so that the first increase is seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.stack import SERVICES, Service, Stack

PAIRS = 6
"""From each of the three sample levels to each other."""
SERIES = {
    "ingest": {
        "reshelve_views_accepted_total": 2, "reshelve_ingest_seconds_count": 1,
        "reshelve_last_success_timestamp_seconds": 1, "reshelve_dead_letters": 1, "reshelve_postponed": 1,
    },
    "planner": {
        "reshelve_reviews_total": 5, "reshelve_moves_opened_total": PAIRS, "reshelve_views_tallied_total": 1,
        "reshelve_contents_tallied_total": 1,
        "reshelve_stream_backlog": 1, "reshelve_stream_oldest_seconds": 1, "reshelve_stream_pending": 1,
        "reshelve_reclaimed_total": 1, "reshelve_last_success_timestamp_seconds": 3, "reshelve_reviews_waiting": 1,
    },
    "mover": {
        "reshelve_moved_bytes_total": PAIRS, "reshelve_flip_flops_total": PAIRS, "reshelve_breaker_open": 3,
        "reshelve_level_free_bytes": 3, "reshelve_level_size_bytes": 3, "reshelve_level_bytes": 3,
        "reshelve_moves_in_progress": 1, "reshelve_move_seconds_count": 1, "reshelve_stream_backlog": 2,
        "reshelve_reclaimed_total": 2, "reshelve_last_success_timestamp_seconds": 2,
    },
    "recorder": {
        "reshelve_relocations_committed_total": PAIRS, "reshelve_level_contents": 3, "reshelve_commit_seconds_count": 1,
        "reshelve_relocation_seconds_count": 1, "reshelve_stream_backlog": 1,
        "reshelve_last_success_timestamp_seconds": 2,
    },
}  # fmt: skip
"""Per service how many series of each name."""
FULL_OF_SOMETHING = (
    "reshelve_level_free_bytes",
    "reshelve_level_size_bytes",
    "reshelve_last_success_timestamp_seconds",
)


@pytest.fixture
async def stack(redis_db: str, database: str, tmp_path: Path) -> AsyncIterator[Stack]:
    started = Stack(redis_db, database, tmp_path)
    try:
        started.start(*SERVICES)
        await started.ready()
        yield started
    finally:
        started.stop()


async def shown(service: Service) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(await service.exposition()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.value)
    return found


async def test_every_series_is_there_before_anything_has_happened(stack: Stack) -> None:
    """Seen to fail with `start_pairs`, and with `_initialise_metrics` of the mover, taken out."""
    deadline = time.monotonic() + 20
    for service in stack.services:
        wanted = SERIES[service.name]
        while True:
            found = await shown(service)
            if (counted := {name: len(found.get(name, [])) for name in wanted}) == wanted:
                break
            assert time.monotonic() < deadline, f"{service.name} shows {counted}, not {wanted}"
            await asyncio.sleep(0.2)
        for name in wanted.keys() - set(FULL_OF_SOMETHING):
            assert not any(found[name]), f"{name} of {service.name} begins with {found[name]}"
    mover = await shown(stack.named("mover")[0])
    assert (len(mover["reshelve_moves_total"]), len(mover["reshelve_retires_total"])) == (13, 7)
    assert len(mover["reshelve_dead_letters_total"]) > 50
