"""The HTTP application: which path leads to which verb."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from services.ingest.authorize import asks_for_tokens
from services.ingest.bodies import ROOM
from services.ingest.coalesce import Publisher
from services.ingest.contents import ContentsEndpoint
from services.ingest.dead import DeadLettersEndpoint
from services.ingest.draining import Draining
from services.ingest.gate import Gate
from services.ingest.health import HealthEndpoint
from services.ingest.history import HistoryEndpoint
from services.ingest.idempotency import Idempotency
from services.ingest.levels import LevelsEndpoint
from services.ingest.problems import answers_problems
from services.ingest.room import Room
from services.ingest.sentences import SentencesEndpoint
from services.ingest.settings import IngestSettings
from services.ingest.tokens import Tokens
from services.ingest.views import ViewsEndpoint
from shared.catalog import Catalog, Connections, Drops, Registry
from shared.drop import Dropping
from shared.log import Log
from shared.state.contents import Contents
from shared.state.dead_letters import DeadLetterQueue
from shared.state.scripts import Scripts
from shared.state.views import Views

DRAINING = web.AppKey("draining", Draining)
OPENAPI = Path(__file__).with_name("openapi.json")


@dataclass(frozen=True, slots=True)
class Pools:
    """Threads for what would block the event loop; apart, so that a hanging disk stops no parsing."""

    parsing: Executor
    looking: Executor


def build_app(
    settings: IngestSettings,
    log: Log,
    *,
    scripts: Scripts,
    publishing: Scripts,
    gate: Gate,
    connections: Connections,
    missing: Callable[[], Awaitable[str]],
    pools: Pools,
) -> web.Application:
    """`publishing` has a client of its own, with a short timeout; `missing` names the servers that do not answer."""
    catalog, registry, contents = Catalog(connections), Registry(connections), Contents(scripts)
    views = Views(publishing)
    deadline_s, key_life_s = settings.deadline_s, settings.key_life_s
    room = Room(settings.reading_limit_bytes, deadline_s)
    publisher = _publisher(settings, views, gate, log)
    idempotency = Idempotency(views, deadline_s=deadline_s, key_life_s=key_life_s)
    taking = ViewsEndpoint(publisher, gate, idempotency, room, pool=pools.parsing, partitions=settings.partitions)
    tracking = ContentsEndpoint(catalog, registry, contents, pools.looking, log)
    history = HistoryEndpoint(catalog)
    levels = LevelsEndpoint(catalog, registry, log)
    sentences = SentencesEndpoint(catalog, contents, publisher, partitions=settings.partitions)
    health = HealthEndpoint(missing)
    letters = DeadLetterQueue(scripts)
    dead = DeadLettersEndpoint(letters, Dropping(letters, Drops(connections)), log)

    # Whoever checks tokens comes second: its refusals are problems too.
    asking = [asks_for_tokens(Tokens(settings.tokens_file, log), log)] if settings.tokens_file else []
    draining = Draining()
    answering = answers_problems(log, draining)
    app = web.Application(client_max_size=settings.body_limit_bytes, middlewares=[answering, *asking])
    app[ROOM], app[DRAINING] = room, draining
    app.router.add_post("/v1/views", taking.post)
    app.router.add_post("/v1/contents", tracking.register)
    app.router.add_get("/v1/contents/{cid}", tracking.show, allow_head=False)
    app.router.add_delete("/v1/contents/{cid}", tracking.forget)
    app.router.add_get("/v1/contents/{cid}/history", history.show, allow_head=False)
    app.router.add_get("/v1/levels", levels.show, allow_head=False)
    app.router.add_put("/v1/levels", levels.replace)
    app.router.add_get("/v1/dead", dead.list, allow_head=False)
    app.router.add_get("/v1/dead/{id}", dead.show, allow_head=False)
    app.router.add_post("/v1/dead/{id}/retry", dead.retry)
    app.router.add_delete("/v1/dead/{id}", dead.drop)
    app.router.add_post("/post_sentence", sentences.post)
    app.router.add_post("/update_sentence", sentences.update)
    app.router.add_get("/healthz", health.healthz, allow_head=False)
    app.router.add_get("/readyz", health.readyz, allow_head=False)
    app.router.add_get("/openapi.json", _document(OPENAPI.read_bytes()), allow_head=False)
    return app


def _publisher(settings: IngestSettings, views: Views, gate: Gate, log: Log) -> Publisher:
    return Publisher(
        views,
        gate,
        log,
        partitions=settings.partitions,
        deadline_s=settings.deadline_s,
        pending_limit=settings.pending_limit_bytes,
        key_life_s=settings.key_life_s,
    )


def _document(text: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def show(_: web.Request) -> web.Response:
        return web.Response(body=text, content_type="application/json")

    return show
