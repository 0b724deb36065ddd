"""Containers for the tests. Without a Docker engine they are left out, and say so; with REQUIRE_DOCKER=1 that fails."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import docker_answers
from tests.containers.composed import Composed, clean_checkout, composed, docker

NO_ENGINE = "no Docker engine answers: the tests in containers are left out; start one, with compose v2"


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """An engine that answers."""
    if not docker_answers():
        (pytest.fail if os.environ.get("REQUIRE_DOCKER") == "1" else pytest.skip)(NO_ENGINE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` runs them one after another: they share stacks, each of which has the machine to itself."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def checkout(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout."""
    return clean_checkout(tmp_path_factory.mktemp("clean") / "checkout")


@pytest.fixture(scope="session")
def image(checkout: Path) -> Iterator[str]:
    """The image, built as compose builds it."""
    name = f"reshelve:test-{secrets.token_hex(4)}"
    Composed(checkout, name).compose("build", "--quiet", "migrate", timeout_s=280)
    yield name
    docker("rmi", "--force", name)


@pytest.fixture(scope="session")
def stack(checkout: Path, image: str) -> Iterator[Composed]:
    """The stack as it is delivered, with MySQL; leases are short."""
    with composed(checkout, image) as project:
        project.up(mover=2, planner=2)
        yield project
