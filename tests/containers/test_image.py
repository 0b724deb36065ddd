"""The image: small, nobody's root, and plain about what it misses."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.containers.composed import SERVICES, docker

_LIMIT_BYTES = 250_000_000


@pytest.fixture(scope="module")
def built(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", image))[0]
    return found


def run(image: str, service: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "run", "--rm", "--network=none", "--read-only", *options, image]
    return subprocess.run(
        [*command, "python", "-m", f"services.{service}"], capture_output=True, text=True, timeout=30, check=False
    )


def test_it_is_smaller_than_250_mb(built: dict[str, Any]) -> None:
    assert built["Size"] < _LIMIT_BYTES


def test_it_runs_as_a_number_that_is_not_root(built: dict[str, Any]) -> None:
    """Kubernetes' `runAsNonRoot` cannot judge a name."""
    user, _, group = built["Config"]["User"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_its_layers_hold_what_runs_and_nothing_else(image: str) -> None:
    """Seen to fail with the build stage's directory copied along."""
    listing = docker("run", "--rm", image, "python", "-c", _NAMES)
    found = set(listing.split())
    assert {"services", "shared", "cli", "deploy"} <= found
    assert found.isdisjoint({"tests", "benchmarks", "docs", "build", ".git", "requirements-dev.lock", ".reshelve"})
    assert docker("run", "--rm", image, "sh", "-c", "ls -d /build /opt/uv 2>/dev/null || true") == ""


_NAMES = "import os, services; print(*os.listdir(os.path.dirname(os.path.dirname(services.__file__))))"


@pytest.mark.parametrize("service", SERVICES)
def test_missing_settings_end_a_service_at_once_with_one_line(image: str, service: str) -> None:
    ended = run(image, service)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [f"{service}: RESHELVE_REDIS_URL: not set; RESHELVE_MYSQL_URL: not set"]


@pytest.mark.parametrize(
    ("service", "variable", "value"),
    [
        ("ingest", "RESHELVE_HTTP_PORT", "a door"),
        ("planner", "RESHELVE_PARTITIONS", "0"),
        ("mover", "RESHELVE_LEASE_MS", "soon"),
        ("recorder", "RESHELVE_MYSQL_URL", "postgres://here"),
        ("mover", "RESHELVE_REDIS_URL_FILE", "/run/accounts/nothing"),
    ],
)
def test_a_wrong_setting_ends_a_service_at_once_with_one_line_that_names_it(
    image: str, service: str, variable: str, value: str
) -> None:
    sound = {"RESHELVE_REDIS_URL": "redis://redis/0", "RESHELVE_MYSQL_URL": "mysql://u:p@mysql/reshelve"}
    settings = sound | {variable: value}
    ended = run(image, service, *(word for name, text in settings.items() for word in ("-e", f"{name}={text}")))
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert line.startswith(f"{service}: {variable}: ")
