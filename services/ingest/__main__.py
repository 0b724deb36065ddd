"""Ingest: `python -m services.ingest`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from services.ingest.app import DRAINING, Pools, build_app
from services.ingest.gate import Gate
from services.ingest.problems import server_logger
from services.ingest.settings import IngestSettings
from services.ingest.views import initialise_metrics
from shared.errors import StopServiceError
from shared.redis_client import connect
from shared.service import Runtime, run
from shared.state.contents import Contents
from shared.state.scripts import Scripts
from shared.stopping import BOUND_S

_ATTEMPT_S = 2.0
"""How long one attempt at publishing may take; within a request's deadline there is time for another."""
_KEEPALIVE_S = 75
_DRAIN_S = BOUND_S - 3
"""How long requests under way may take when ingest stops, so that it is not hurried."""
_CUT_S = 0.5
"""How long aiohttp then waits for each connection, twice: there is nothing more to wait for."""
_BACKLOG = 1024
_READ_AHEAD_BYTES = 16 * 1024
"""What a connection may hold that nobody has asked for yet: twice this, and what one read of the socket brings."""


async def ingest(runtime: Runtime[IngestSettings]) -> None:
    """Answer requests until stopped; then those that are under way."""
    settings = runtime.settings
    initialise_metrics()
    redis = connect(settings.redis_url.get_secret_value(), timeout_s=min(_ATTEMPT_S, settings.deadline_s))
    publishing = Scripts(redis, settings.partitions)
    gate = Gate(redis, Contents(publishing), settings.backlog_limit, runtime.log)
    pools = Pools(ThreadPoolExecutor(1, "parsing"), ThreadPoolExecutor(4, "looking"))
    app = build_app(
        settings,
        runtime.log,
        scripts=runtime.scripts,
        publishing=publishing,
        gate=gate,
        connections=runtime.connections,
        missing=runtime.missing,
        pools=pools,
    )
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=server_logger(),
        keepalive_timeout=_KEEPALIVE_S,
        read_bufsize=_READ_AHEAD_BYTES,
        shutdown_timeout=_CUT_S,
    )
    try:
        await gate.look()
        await runner.setup()
        site = await _listen(runtime, runner)
        await gate.run(runtime.stop)
        await site.stop()
        await app[DRAINING].finish(_DRAIN_S)
    finally:
        await runner.cleanup()
        await redis.aclose()
        for pool in (pools.parsing, pools.looking):
            pool.shutdown(wait=False, cancel_futures=True)


async def _listen(runtime: Runtime[IngestSettings], runner: web.AppRunner) -> web.TCPSite:
    settings = runtime.settings
    host, port = settings.http_host, settings.http_port
    site = web.TCPSite(runner, host, port, backlog=_BACKLOG, reuse_port=settings.http_share_port)
    try:
        await site.start()
    except OSError as error:
        raise StopServiceError(f"RESHELVE_HTTP_PORT: cannot listen on {host}:{port}: {error.strerror}") from None
    runtime.at_work()
    runtime.log.info("listening", addresses=[f"{name}:{number}" for name, number, *_ in runner.addresses])
    return site


if __name__ == "__main__":
    run("ingest", IngestSettings, ingest)
