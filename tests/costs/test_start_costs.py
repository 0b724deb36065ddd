"""A service's start is the interpreter's imports: what it does not use must not be among them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent
HEAVY = {"alembic", "pydantic", "pydantic_settings", "sqlalchemy", "typer"}


def loaded(module: str) -> set[str]:
    """The packages that are there when the module is."""
    program = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("service", ["ingest", "planner", "mover", "recorder"])
def test_a_service_loads_nothing_that_only_commands_need(service: str) -> None:
    assert not HEAVY & loaded(f"services.{service}.__main__")
