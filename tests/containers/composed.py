"""A stack of containers as docker-compose.yml makes it, from a copy of the checkout, under a name of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ports import free_port

PROJECT_DIRECTORY = Path(__file__).resolve().parents[2]
COMPOSE = "docker-compose.yml"
ONLOOKER = "tests/containers/compose.yml"
SERVICES = ("ingest", "planner", "mover", "recorder")


def docker(*arguments: str, given: str = "", timeout_s: float = 120) -> str:
    """What the command prints; an AssertionError with all that it said where it fails."""
    done = subprocess.run(
        ["docker", *arguments], input=given, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def clean_checkout(directory: Path) -> Path:
    """What a fresh clone would hold: nothing that was made here."""
    made = [line.rstrip("/") for line in (PROJECT_DIRECTORY / ".gitignore").read_text().splitlines()]
    return Path(shutil.copytree(PROJECT_DIRECTORY, directory, ignore=shutil.ignore_patterns(".git", *made)))


@dataclass
class Composed:
    """One project of compose. `scale` is kept: a later `up` without it would take replicas away."""

    checkout: Path
    image: str
    files: Sequence[str] = (COMPOSE, ONLOOKER)
    settings: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"reshelve-test-{secrets.token_hex(4)}")
    http_port: int = field(default_factory=free_port)
    prometheus_port: int = field(default_factory=free_port)
    scale: dict[str, int] = field(default_factory=dict)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def compose(self, *arguments: str, given: str = "", timeout_s: float = 180) -> str:
        """`docker compose` in this project."""
        files = [word for file in self.files for word in ("-f", file)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RESHELVE_")} | {
            "RESHELVE_IMAGE": self.image,
            "RESHELVE_HTTP_PORT": str(self.http_port),
            "RESHELVE_PROMETHEUS_PORT": str(self.prometheus_port),
            **self.settings,
        }
        command = [
            "docker",
            "compose",
            "--ansi=never",
            "-p",
            self.name,
            "--project-directory",
            str(self.checkout),
            *files,
            *arguments,
        ]
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"compose {' '.join(arguments)}\n{done.stdout[-3000:]}\n{self._last_words(done)}"
        return done.stdout

    def _last_words(self, failed: subprocess.CompletedProcess[str]) -> str:
        words = [failed.stderr[-4000:]]
        for container in docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}").split():
            state = docker("inspect", "-f", "{{.Name}} {{.State.Status}} {{.State.ExitCode}}", container).strip()
            if " exited 0" not in state:
                log = subprocess.run(["docker", "logs", "--tail", "8", container], capture_output=True, check=False)
                words.append(f"{state}\n{(log.stdout + log.stderr).decode(errors='replace')}")
        return "\n".join(words)

    def up(self, *services: str, **scale: int) -> None:
        """Returns when all is healthy."""
        self.scale.update(scale)
        replicas = [word for name, number in self.scale.items() for word in ("--scale", f"{name}={number}")]
        self.compose("up", "-d", "--wait", "--no-build", *replicas, *services)

    def scale_to(self, service: str, replicas: int) -> None:
        """More or fewer of one service; the others are left alone."""
        self.scale[service] = replicas
        wanted = ("--no-deps", "--no-recreate", "--scale", f"{service}={replicas}", service)
        self.compose("up", "-d", "--wait", "--no-build", *wanted)

    def replace(self, service: str) -> None:
        """Each of its containers by a new one."""
        wanted = ("--no-deps", "--force-recreate", "--scale", f"{service}={self.scale.get(service, 1)}", service)
        self.compose("up", "-d", "--wait", "--no-build", *wanted)

    def down(self) -> None:
        """Forget everything, its volumes too."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5", "--remove-orphans")

    def containers(self, service: str) -> list[str]:
        """Their ids, those that do not run too."""
        return self.compose("ps", "-aq", service).split()

    def inspect(self, service: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", *self.containers(service)))
        return found

    def logs(self, service: str) -> str:
        """What its containers have written so far."""
        out = subprocess.PIPE
        read = [
            subprocess.run(["docker", "logs", c], stdout=out, stderr=subprocess.STDOUT, check=True)
            for c in self.containers(service)
        ]
        return "".join(log.stdout.decode(errors="replace") for log in read)

    def token(self, role: str = "operator") -> str:
        tokens = dict(
            line.split() for line in self.compose("exec", "-T", "ingest", "cat", "/run/accounts/tokens").splitlines()
        )
        return str(tokens[role])

    def ask(self, verb: str, **question: Any) -> Any:
        """Have the onlooker do something from within; see tests/containers/onlooker.py."""
        (onlooker,) = self.containers("onlooker")
        command = ["exec", "-i", onlooker, "python", "-m", "tests.containers.onlooker", verb]
        return json.loads(docker(*command, given=json.dumps(question), timeout_s=180))

    def judge(self, digests: Mapping[str, str], counts: Mapping[str, int], timeout_s: float = 90) -> dict[str, Any]:
        """The oracle's word once all is settled; asserts that it found nothing."""
        word: dict[str, Any] = self.ask("judge", digests=digests, counts=counts, timeout_s=timeout_s)
        assert not word["faults"], "\n".join(["the oracle found:", *word["faults"][:40]])
        return word

    def crash(self, container: str) -> None:
        """SIGKILL as the kernel's OOM killer sends it; `docker kill` would be taken for an operator's wish."""
        pid = docker("inspect", "-f", "{{.State.Pid}}", container).strip()
        killer = f"import os; os.kill({pid}, 9)"
        docker("run", "--rm", "--network=none", "--pid=host", "--user=0", self.image, "python", "-c", killer)

    def errors(self) -> list[str]:
        """Log lines that say something is wrong with the code, not with the world."""
        return [
            f"{service}: {line[:400]}"
            for service in SERVICES
            for line in self.logs(service).splitlines()
            if any(sign in line for sign in ("Traceback", "ended by an error", "exception was never retrieved"))
        ]

    def replicas_watched(self, port: int) -> int:
        """How many replicas with this metrics port Prometheus reaches."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.prometheus_port}/api/v1/targets", timeout=5) as answer:
            targets = json.load(answer)["data"]["activeTargets"]
        return sum(target["health"] == "up" and target["labels"]["instance"].endswith(f":{port}") for target in targets)


@contextmanager
def composed(checkout: Path, image: str, *files: str, **settings: str) -> Iterator[Composed]:
    """A project that is not started yet; nothing of it outlives the block."""
    project = Composed(checkout, image, files or (COMPOSE, ONLOOKER), settings)
    try:
        yield project
    finally:
        project.down()


def until(holds: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Returns when it holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"after {timeout_s} s: {what}"
        time.sleep(0.2)
