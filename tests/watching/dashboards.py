"""The shipped dashboards as data, and what Grafana does to a query before it asks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.prometheus import PROJECT

GRAFANA = PROJECT / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
DASHBOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FILES}

_LABEL_VALUES = re.compile(r"label_values\((?P<metric>\w+), (?P<label>\w+)\)")


@dataclass(frozen=True)
class Query:
    """One target of a panel."""

    dashboard: str
    panel: str
    ref: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.ref}"


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that ask something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    return [
        Query(name, panel["title"], target["refId"], target["expr"])
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def variables() -> dict[str, tuple[str, str]]:
    """Name to (metric, label) whose values it offers."""
    found = {}
    for dashboard in DASHBOARDS.values():
        for variable in dashboard["templating"]["list"]:
            match = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert match, variable["query"]
            found[variable["name"]] = (match["metric"], match["label"])
    return found


def resolved(expression: str, values: Mapping[str, list[str]], rate_interval: str) -> str:
    """With the variables' values and Grafana's own put in; an unknown variable fails."""
    expression = expression.replace("$__rate_interval", rate_interval)
    for name, offered in values.items():
        expression = expression.replace(f'"${name}"', '"' + "|".join(offered) + '"')
    # What is left are the group references of label_replace.
    assert not re.search(r"\$[a-z_]", expression), f"unknown variable in {expression}"
    return expression
