"""Prometheus' programs, and a real one that scrapes given ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.ports import free_port

PROJECT = Path(__file__).parent.parent
CONFIG = PROJECT / "deploy" / "prometheus"
SCRAPE_S = 1


def program(name: str) -> str:
    """Where `prometheus` or `promtool` is."""
    found = shutil.which(name) or PROJECT / ".prometheus" / "usr" / "bin" / name
    if not Path(found).exists():
        pytest.fail(f"no {name}: run deploy/bootstrap.sh test, or put Prometheus 2.42 or later on PATH")
    return str(found)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in the directory of the configuration."""
    return subprocess.run(
        [program("promtool"), *arguments], cwd=CONFIG, capture_output=True, text=True, check=False, timeout=60
    )


def local_config(ports: Mapping[str, Sequence[int]], directory: Path) -> Path:
    """The configuration as shipped, but for where the replicas are: given ports instead of names to look up."""
    config = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    config["rule_files"] = [str(CONFIG / name) for name in config["rule_files"]]
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "reshelve"]
    config["scrape_configs"] = [job]
    found = job.pop("dns_sd_configs")
    job["static_configs"] = [
        # What a look-up would have said, so that the shipped relabelling is what names the service.
        {"targets": [f"127.0.0.1:{port}" for port in ports[name]], "labels": {"__meta_dns_name": name}}
        for named in found
        for name in named["names"]
    ]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector; fails with what Prometheus says against the expression."""
        return self._get("/api/v1/query", query=expression)["result"]  # type: ignore[no-any-return]

    def targets(self) -> list[dict[str, Any]]:
        return self._get("/api/v1/targets", state="active")["activeTargets"]  # type: ignore[no-any-return]

    def label_values(self, label: str, metric: str) -> list[str]:
        return self._get(f"/api/v1/label/{label}/values", **{"match[]": metric})  # type: ignore[no-any-return]

    def ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _get(self, path: str, **parameters: str) -> Any:
        try:
            with urlopen(f"{self.url}{path}?{urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except URLError as error:
            said = error.read().decode() if hasattr(error, "read") else str(error)
            raise AssertionError(f"{parameters}: {said}") from None


@contextmanager
def running(ports: Mapping[str, Sequence[int]], directory: Path) -> Iterator[Prometheus]:
    """Scrapes the services' ports every second until the block ends."""
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={local_config(ports, directory)}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = directory / "prometheus.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"GOMAXPROCS": "1"})
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 30
        while not prometheus.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Prometheus is not ready:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
