"""The shipped dashboards: files that Grafana can take, and every query answered after a real run."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from shared.catalog import Connections, Registry
from tests.accounts import Accounts
from tests.oracle import Expected, Oracle, sha256
from tests.prometheus import SCRAPE_S, Prometheus, running
from tests.stack import SERVICES, Stack
from tests.watching.dashboards import DASHBOARDS, GRAFANA, panels, queries, resolved, variables
from tests.watching.test_alerts import unknown_series

_CONTENTS = 30
_RATE_INTERVAL_S = 60
SOURCES = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]

MOVING = {
    "Views per second", "Relocations per second", "View to commit, p95", "Replicas", "Views accepted and counted",
    "Seconds to answer", "Reviews per second", "Relocations per second by direction", "View to commit",
    "Seconds to place a file", "Seconds per commit", "Relocations per commit", "Attempts per second by outcome",
    "Replicas that answer", "CPU", "Memory", "Contents per level", "Bytes per level", "Free space",
    "Flip-flops in the last hour", "Contents", "Bytes", "Free bytes", "Relocations per hour between levels",
    "Bytes moved per second", "Net bytes per hour", "Moves opened per second", "Placed per second by method",
    "Flip-flops per hour", "Movers that see the level", "Dead letters", "Dead letters per hour by stage",
    "Dead letters per hour by reason", "Seconds since each loop last did its work",
}  # fmt: skip
"""Panels that show more than 0 after the run below."""


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_sound(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"reshelve-{name}"
    assert "id" not in dashboard
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for one, other in combinations(dashboard["panels"], 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    sources = {source["uid"] for source in SOURCES}
    for asking in [*panels(dashboard), *dashboard["templating"]["list"]]:
        assert asking["datasource"]["uid"] in sources


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
    return across and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_panel_says_what_it_shows(name: str) -> None:
    dashboard = DASHBOARDS[name]
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles)
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert steps[0] is None
        assert steps[1:] == sorted(steps[1:])
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            assert unknown_series(target["expr"]) == set()


def test_the_data_source_knows_the_scrape_interval_and_dashboards_are_where_the_provider_looks() -> None:
    (source,) = SOURCES
    config = yaml.safe_load((GRAFANA.parent / "prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    providers = yaml.safe_load((GRAFANA / "provisioning/dashboards/reshelve.yml").read_text())["providers"]
    assert [provider["options"]["path"] for provider in providers] == ["/etc/grafana/dashboards"]


# --- every query, after a real run ------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Contents on bronze, the four services, a Prometheus that scrapes them."""

    stack: Stack
    prometheus: Prometheus
    files: dict[str, bytes]
    redis_url: str
    mysql_url: str

    def sees_all(self) -> bool:
        targets = self.prometheus.targets()
        return len(targets) == len(SERVICES) and all(target["health"] == "up" for target in targets)

    async def post(self, *views: dict[str, Any]) -> None:
        async with aiohttp.ClientSession(self.stack.http) as session, session.post("/v1/views", json=views) as answer:
            assert answer.status == 202

    async def settled(self) -> None:
        oracle = Oracle(self.redis_url, self.mysql_url)
        try:
            await oracle.judge(
                {cid: Expected(sha256(data), None) for cid, data in self.files.items()}, dead_allowed=True
            )
        finally:
            await oracle.close()


@pytest.fixture
async def files(database: str, level_root: Path) -> dict[str, bytes]:
    held = {str(n): bytes([n]) * 5000 for n in range(_CONTENTS)}
    for cid, data in held.items():
        (level_root / "bronze" / f"{cid}.mp4").write_bytes(data)
    connections = Connections(database)
    rows = [(cid, f"{cid}.mp4") for cid in (*held, "lost")]
    assert await Registry(connections).register_many(rows, "bronze") == []
    await connections.close()
    return held


@pytest.fixture
async def stack(
    redis_db: str, database: str, files: dict[str, bytes], tmp_path: Path, accounts: Accounts
) -> AsyncIterator[Stack]:
    started = Stack(redis_db, database, tmp_path, redis_urls=accounts.redis_urls, mysql_urls=accounts.mysql_urls)
    refused = accounts.denials(redis_db)  # of tests before this one
    try:
        started.start(*SERVICES)
        await started.ready()
        yield started
    finally:
        started.stop()
    assert started.errors() == []
    assert accounts.denials(redis_db) == refused


@pytest.fixture
def scene(stack: Stack, files: dict[str, bytes], redis_db: str, database: str, tmp_path: Path) -> Iterator[Scene]:
    ports = {service.name: [service.metrics_port] for service in stack.services}
    with running(ports, tmp_path) as prometheus:
        yield Scene(stack, prometheus, files, redis_db, database)


async def until(happens: Any, what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(happens):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.25)


async def test_every_panel_shows_data_after_a_real_run(scene: Scene) -> None:
    """Seen to fail with `start_pairs` taken out of the services, and with a metric renamed in a dashboard."""
    await until(scene.sees_all, "Prometheus finds the four services")
    await asyncio.sleep(3 * SCRAPE_S)  # a counter's start must have been seen, or its increase is none
    for total in (1500, 10, 2500, 1500):
        await scene.post(*({"cid": cid, "count": total} for cid in scene.files))
        await scene.settled()
    # One whose file is missing, and views that are refused.
    await scene.post({"cid": "lost", "count": 1500}, {"cid": "a b", "views": 1})
    await scene.settled()
    await asyncio.sleep(6)  # levels are looked at every five seconds
    values = {name: scene.prometheus.label_values(label, metric) for name, (metric, label) in variables().items()}
    assert values == {"stream": ["moves", "placed", "retires", "views"], "level": ["bronze", "gold", "silver"]}
    faults = []
    for query in queries():
        samples = scene.prometheus.query(resolved(query.expression, values, f"{_RATE_INTERVAL_S}s"))
        shown = [float(sample["value"][1]) for sample in samples]
        sound = [value for value in shown if math.isfinite(value)]
        if not sound or (query.panel in MOVING and query.ref == "A" and not any(sound)):
            faults.append(f"{query}: {shown}: {query.expression}")
    assert faults == []
