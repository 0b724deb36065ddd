"""Ingest on a real socket within the test's own process, against real servers; and what it has taken in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from msgspec import structs

from services.ingest.__main__ import ingest
from services.ingest.settings import IngestSettings
from shared.catalog import Catalog, Commitments, Connections, Registry
from shared.keys import PartitionKeys
from shared.messages import Move, Placed, Tally, unpack_views
from shared.moveid import new_move_id
from shared.redis_client import connect
from shared.service import Runtime
from shared.settings import SecretStr
from shared.state.contents import Contents
from shared.state.reviews import Opening, Reviews
from shared.state.scripts import Scripts
from tests.ports import free_port

MOVE = Move(new_move_id(), "7", "g.mp4", "bronze", "silver", "", "", 1964, "count 1964 asks for silver", 0, 0)


@dataclass
class Running:
    """A running ingest and a client of it."""

    runtime: Runtime[IngestSettings]
    http: aiohttp.ClientSession

    @property
    def scripts(self) -> Scripts:
        return self.runtime.scripts

    @property
    def contents(self) -> Contents:
        return Contents(self.scripts)

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.runtime.connections)

    @property
    def registry(self) -> Registry:
        return Registry(self.runtime.connections)

    async def ready(self) -> None:
        for _ in range(200):
            try:
                async with self.http.get("/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.02)
        raise AssertionError("ingest is not ready")

    async def post_views(
        self, body: bytes, content_type: str = "application/json", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer; `Idempotency_Key` becomes `Idempotency-Key`."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post("/v1/views", data=body, headers={"Content-Type": content_type, **names}) as answer:
            return answer.status, await answer.json(content_type=None)


@asynccontextmanager
async def running_ingest(redis_url: str, mysql_url: str, **settings: Any) -> AsyncIterator[Running]:
    """Ingest as its own process would run it, but for the signals."""
    chosen = IngestSettings(
        redis_url=SecretStr(redis_url), mysql_url=SecretStr(mysql_url), http_port=free_port(), **settings
    )
    redis = connect(redis_url)
    runtime = Runtime(
        "ingest", chosen, structlog.get_logger(), redis, Scripts(redis, chosen.partitions), Connections(mysql_url)
    )
    serving = asyncio.create_task(ingest(runtime))
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{chosen.http_port}") as http:
            yield Running(runtime, http)
    finally:
        runtime.stop.set()
        await serving
        await redis.aclose()
        await runtime.connections.close()


async def entries(scripts: Scripts, partitions: Iterable[PartitionKeys] | None = None) -> list[dict[bytes, bytes]]:
    """All entries of the views streams, or of some."""
    found = []
    for keys in partitions or scripts.partitions:
        rows: Any = await scripts.redis.xrange(keys.stream("views"))
        found += [fields for _, fields in rows]
    return found


async def taken_in(scripts: Scripts) -> Tally:
    """What all entries of the views streams amount to."""
    whole = Tally.empty()
    for fields in await entries(scripts):
        whole.merge(unpack_views(fields))
    return whole


async def call(ingest: Running, method: str, path: str, **arguments: Any) -> tuple[int, Any]:
    async with ingest.http.request(method, path, **arguments) as answer:
        problem = answer.content_type == "application/problem+json"
        assert problem == (answer.status >= 400)
        if answer.status == 204:
            return 204, None
        plain = answer.content_type == "text/plain"
        body: Any = await (answer.text() if plain else answer.json(content_type=None))
        assert not problem or body["status"] == answer.status
        return answer.status, body


async def open_move(ingest: Running) -> None:
    [state] = await ingest.contents.read(["7"])
    opened = await Reviews(ingest.scripts).open(ingest.scripts.of("7").partition, [Opening(MOVE, state.version, 0)])
    assert opened == [True]


async def record_move(ingest: Running, level_root: Path, move: Move, at: int = 5) -> None:
    """As the recorder does once the file is placed."""
    move = structs.replace(move, from_path=str(level_root / move.from_level), to_path=str(level_root / move.to_level))
    copied: dict[str, Any] = {name: getattr(move, name) for name in Move.__struct_fields__}
    placed = Placed(
        **copied, bytes=4, digest="", method="link", seconds=0.1, mover="m-1", attempts=1, source_id="1:4:1",
        target_id="1:4:1", placed_at=at,
    )  # fmt: skip
    [verdict] = await Commitments(ingest.runtime.connections).commit([placed], at)
    assert verdict == "commit"
