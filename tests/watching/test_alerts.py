"""The shipped configuration, rules and alerts: sound, each alert tested both ways, each with a page in the runbook."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared import metrics
from tests.prometheus import CONFIG, PROJECT, promtool

SERVICES = ("ingest", "planner", "mover", "recorder")
ALERTS: list[dict[str, Any]] = yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"][0]["rules"]
RULES: list[dict[str, Any]] = yaml.safe_load((CONFIG / "rules.yml").read_text())["groups"][0]["rules"]
TESTS: list[dict[str, Any]] = yaml.safe_load((CONFIG / "alerts_test.yml").read_text())["tests"]

_SERIES = re.compile(r"\breshelve_[a-z0-9_]+")


def by_name(alert: dict[str, Any]) -> str:
    return str(alert["alert"])


def series_of_services() -> set[str]:
    """All names that a scrape can bring."""
    names = set()
    for line in metrics.exposition().decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names |= {name} | (
                {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else set()
            )
    return names


def unknown_series(expression: str) -> set[str]:
    """Metric names in an expression that no service has; a recording rule's own name has colons around it."""
    recorded = {rule["record"] for rule in RULES}
    for name in recorded:
        expression = expression.replace(name, "")
    return set(_SERIES.findall(expression)) - series_of_services()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_each_alert_is_seen_firing_and_seen_silent(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    expected = [
        bool(asked["exp_samples"])
        for case in TESTS
        for asked in case["promql_expr_test"]
        if f'alertname="{name}"' in asked["expr"]
    ]
    assert set(expected) == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_each_alert_tells_whoever_is_called_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["for"]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    page, _, anchor = notes["runbook"].partition("#")
    headings = re.findall(r"^## (\S+)$", (PROJECT / page).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in headings


@pytest.mark.parametrize("rule", [*RULES, *ALERTS], ids=lambda rule: rule.get("record") or rule["alert"])
def test_rules_ask_for_series_that_there_are(rule: dict[str, Any]) -> None:
    """A renamed metric makes no alert fail: it falls silent."""
    assert unknown_series(rule["expr"]) == set()


def test_every_service_is_found_on_its_metrics_port() -> None:
    config = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "reshelve"]
    found = {name: named["port"] for named in job["dns_sd_configs"] for name in named["names"]}
    assert found == {name: default_port(name) for name in SERVICES}


def default_port(service: str) -> int:
    settings = getattr(import_module(f"services.{service}.settings"), f"{service.capitalize()}Settings")
    return int(settings.metrics_port)


def test_the_runbook_has_no_page_for_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (Reshelve\S+)$", Path(PROJECT, "docs/operations.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(by_name(alert) for alert in ALERTS)
