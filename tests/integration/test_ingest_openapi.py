"""The OpenAPI document says what the code does: held against the routes, and by schemathesis against a live ingest."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import schemathesis
import structlog
from aiohttp import web

from services.ingest import events, history, idempotency, levels, payloads
from services.ingest.access import allowed
from services.ingest.app import OPENAPI, Pools, build_app
from services.ingest.gate import Gate
from services.ingest.settings import IngestSettings
from shared.catalog import Connections, Registry
from shared.drop import WHY_MAX_CHARACTERS
from shared.levels import COUNT_MAX
from shared.names import CID_PATTERN, FILENAME_MAX_CHARACTERS
from shared.redis_client import connect
from shared.settings import SecretStr
from shared.state.contents import OPEN_STATUSES, Contents
from shared.state.dead_letters import LETTER_PATTERN, ORIGINS
from shared.state.scripts import Scripts
from tests.stack import Stack

TRACKED = [f"film-{n}" for n in range(200)]
EXAMPLES = 25

# What JSON Schema cannot say: a sound cursor, a file that is there, a table without gaps, a key's other body.
# And views that break a rule are rejected one by one: 202, where the others are sound.
CONFIG = """
hooks = "hooks"

[[operations]]
include-operation-id = "getHistory"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404]

[[operations]]
include-operation-id = "registerContent"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 409, 422]

[[operations]]
include-operation-id = "putLevels"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 409]

[[operations]]
include-operation-id = "listDeadLetters"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400]

[[operations]]
include-operation-id = "getDeadLetter"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404]

[[operations]]
include-operation-id = "dropDeadLetter"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404]

[[operations]]
include-operation-id = "retryDeadLetter"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409]

[[operations]]
include-operation-id = "postSentence"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404]

[[operations]]
include-operation-id = "postViews"
checks.positive_data_acceptance.expected-statuses = ["2xx", 422]
checks.negative_data_rejection.expected-statuses = [202, "4xx"]
"""

HOOKS = """
import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def write_lines(context, value):
    values = value if isinstance(value, list) else [value]
    return b"\\n".join(json.dumps(item).encode() for item in values)
"""


@pytest.fixture
def document() -> Any:
    return orjson.loads(OPENAPI.read_bytes())


def test_it_has_every_route_and_no_other(document: Any, redis_db: str, database: str) -> None:
    written = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if method != "parameters"
    }
    settings = IngestSettings(redis_url=SecretStr(redis_db), mysql_url=SecretStr(database))
    scripts = Scripts(connect(redis_db), 8)
    log = structlog.get_logger()
    pools: Any = Pools(None, None)  # type: ignore[arg-type]

    async def missing() -> str:
        return ""

    app = build_app(
        settings,
        log,
        scripts=scripts,
        publishing=scripts,
        gate=Gate(scripts.redis, Contents(scripts), 1, log),
        connections=Connections(database),
        missing=missing,
        pools=pools,
    )
    assert written == {(route.method, _path(route)) for route in app.router.routes()}


def _path(route: web.AbstractRoute) -> str:
    assert route.resource is not None
    return route.resource.canonical


def test_its_limits_are_those_of_the_code(document: Any) -> None:
    schemas = document["components"]["schemas"]
    view = schemas["View"]["properties"]
    assert schemas["Cid"]["pattern"] == CID_PATTERN
    assert (view["views"]["maximum"], view["count"]["maximum"]) == (payloads.VIEWS_MAX, COUNT_MAX)
    assert schemas["Rejections"]["maxItems"] == payloads.LISTED_MAX
    assert schemas["Registration"]["properties"]["filename"]["maxLength"] == FILENAME_MAX_CHARACTERS
    assert schemas["Attribute"]["maxLength"] == events.ATTRIBUTE_MAX_CHARACTERS
    assert schemas["Levels"]["maxItems"] == levels.LEVELS_MAX
    assert schemas["LetterId"]["pattern"] == LETTER_PATTERN
    assert set(schemas["DeadLetter"]["properties"]["stream"]["enum"]) == set(ORIGINS)
    why = document["paths"]["/v1/dead/{id}"]["delete"]["parameters"][0]["schema"]
    assert why["maxLength"] == WHY_MAX_CHARACTERS
    assert set(schemas["Content"]["properties"]["status"]["enum"]) == {*OPEN_STATUSES, "idle", "failed"}
    views = document["paths"]["/v1/views"]["post"]
    assert views["requestBody"]["content"].keys() == payloads.FORMATS.keys()
    assert views["parameters"][0]["schema"]["maxLength"] == idempotency.KEY_MAX_CHARACTERS
    limit = document["paths"]["/v1/contents/{cid}/history"]["get"]["parameters"][0]["schema"]
    assert (limit["default"], limit["maximum"]) == (history.LIMIT_DEFAULT, history.LIMIT_MAX)


def test_it_names_who_may_use_each_operation(document: Any) -> None:
    """An operation that says nothing inherits the document's own `security`: operators."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            roles = allowed(method.upper(), path)
            security = operation.get("security", document["security"])
            assert {role for choice in security for role in choice["bearer"]} == roles, (method, path)
            refusals = {status for status in ("401", "403") if status in operation["responses"]}
            assert refusals == ({"401", "403"} if roles == {"operator"} else {"401"} if roles else set()), (
                method,
                path,
            )


def test_it_is_a_sound_openapi_document(document: Any) -> None:
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    assert len(list(schema.get_all_operations())) == 16


@pytest.fixture
async def tracked(database: str, level_root: Path) -> None:
    for cid in TRACKED:
        (level_root / "bronze" / cid).touch()
    connections = Connections(database)
    assert await Registry(connections).register_many([(cid, cid) for cid in TRACKED], "bronze") == []
    await connections.close()


@pytest.fixture
async def stack(redis_db: str, database: str, tmp_path: Path, tracked: None) -> Any:
    running = Stack(redis_db, database, tmp_path)
    try:
        running.start("ingest")
        await running.ready()
        yield running
        assert running.stop() == {"ingest": [0]}
        assert running.errors() == []
    finally:
        running.stop()


SCHEMATHESIS_TIMEOUT_S = 300
"""Thousands of requests, on a machine that may be busy with other tests."""


@pytest.mark.timeout(SCHEMATHESIS_TIMEOUT_S)
@pytest.mark.parametrize("known", [False, True], ids=["any cid", "known cids"])
async def test_schemathesis_finds_nothing(stack: Stack, document: Any, tmp_path: Path, *, known: bool) -> None:
    # Without tokens nobody is asked for one, as the document's description says.
    del document["security"], document["components"]["securitySchemes"]
    for operations in document["paths"].values():
        for method, operation in operations.items():
            if method != "parameters":
                operation.pop("security", None)
    await _run_schemathesis(stack, document, tmp_path, known=known)


@pytest.mark.timeout(SCHEMATHESIS_TIMEOUT_S)
async def test_schemathesis_finds_nothing_with_tokens(
    redis_db: str, database: str, tmp_path: Path, tracked: None, document: Any
) -> None:
    """Its check `ignored_auth` asks every operation once more without a token and with a wrong one."""
    token = "operator-token-0123456789"
    tokens = tmp_path / "tokens"
    tokens.write_text(f"operator {token}\n")
    running = Stack(redis_db, database, tmp_path, settings={"RESHELVE_TOKENS_FILE": str(tokens)})
    try:
        running.start("ingest")
        await running.ready()
        await _run_schemathesis(running, document, tmp_path, "-H", f"Authorization: Bearer {token}", known=False)
        assert running.stop() == {"ingest": [0]}
        assert running.errors() == []
    finally:
        running.stop()


async def _run_schemathesis(stack: Stack, document: Any, tmp_path: Path, *options: str, known: bool) -> None:
    if known:
        # The filter of dead letters takes any cid, tracked or not.
        for parameter in document["paths"]["/v1/dead"]["get"]["parameters"]:
            if parameter["name"] == "cid":
                parameter["schema"] = dict(document["components"]["schemas"]["Cid"])
        # A cid made up at random is tracked by nobody: so are the answers of 200 and 204 seen, too.
        document["components"]["schemas"]["Cid"]["enum"] = TRACKED
        document["components"]["parameters"]["cid"]["example"] = TRACKED[0]
    schema = tmp_path / "openapi.json"
    schema.write_bytes(orjson.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "hooks.py").write_text(HOOKS)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(schema), "--url", stack.http, "--checks", "all"),
        *("--max-examples", str(EXAMPLES), "--seed", "7", "--workers", "1", "--no-color"),
        *("--continue-on-failure", "--generation-database", "none", "--suppress-health-check", "all"),
        *options,
    ]
    found = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-15_000:] + found.stderr[-2000:]
