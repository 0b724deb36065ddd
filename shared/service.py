"""Starting and stopping a service: settings, log, metrics port, signals, and what every loop needs."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import uvloop
from aiohttp import web
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import metrics
from shared.catalog import Catalog, CatalogDownError, Connections
from shared.errors import StopServiceError
from shared.keys import META, SCHEMA, StreamName
from shared.log import Log, configure
from shared.patience import StoppedError, is_outage, patiently, pause
from shared.reclaiming import CONSUMERS_DIED
from shared.redis_client import connect, servers
from shared.settings import Settings, read_settings
from shared.state.contents import Contents
from shared.state.scripts import Scripts
from shared.stopping import StopSignals

_WATCH_S = 2.0
_PROVEN_S = 1.0
_CLEANUP_S = 1.0
_MISCONFIGURED = 2

S = TypeVar("S", bound=Settings)


@dataclass
class Runtime(Generic[S]):
    """What a service's loops work with. `redis` is shared; a blocking read takes a client of its own."""

    name: str
    settings: S
    log: Log
    redis: Redis
    scripts: Scripts
    connections: Connections
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _proven: tuple[float, str] = (0.0, "")
    _starting: bool = True

    def at_work(self) -> None:
        """The service does its work from now on; until it says so, it is not ready."""
        self._starting = False

    def reader(self) -> Redis:
        """A client for blocking reads alone."""
        # On a cluster each partition has a read of its own that blocks, and one beside it that does not.
        connections = 2 * self.settings.partitions
        return connect(self.settings.redis_url.get_secret_value(), timeout_s=30, connections=connections)

    async def unready(self) -> str:
        """Why nothing is to be expected of this service now, or an empty text."""
        if self.stop.is_set():
            return "stopping"
        return "starting" if self._starting else await self.missing()

    async def missing(self) -> str:
        """Which server does not answer, or an empty text: Redis and MySQL proven, at most a second ago."""
        at, answer = self._proven
        if time.monotonic() - at < _PROVEN_S:
            return answer
        answer = await self._prove()
        self._proven = (time.monotonic(), answer)
        return answer

    async def _prove(self) -> str:
        missing = []
        try:
            async with asyncio.timeout(2):
                for server in await servers(self.redis):
                    await server.ping()
        except (RedisError, TimeoutError):
            missing.append("redis")
        try:
            async with asyncio.timeout(2):
                await Catalog(self.connections).ping()
        except (CatalogDownError, TimeoutError):
            missing.append("mysql")
        return ", ".join(missing)


Work = Callable[[Runtime[S]], Awaitable[None]]


def run(name: str, kind: type[S], work: Work[S], streams: Sequence[StreamName] = ()) -> None:
    """Run `work` until SIGTERM or SIGINT sets its stop event; `streams` are those that the service reads.

    Exits with 0 within a bound then (`shared.stopping`): work that goes on past it, or past a second signal, is
    cancelled.

    Exits with 2 and a line that names the cause where a setting is wrong.
    """
    signals = StopSignals()
    signals.install()
    try:
        settings = read_settings(kind)
        uvloop.run(_serve(name, settings, work, streams, signals))
    except StopServiceError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # before or without a log
        sys.exit(_MISCONFIGURED)
    finally:
        signals.end()


def _spare_the_collector() -> None:
    """What the imports made stays as long as the process: nobody looks for garbage there (see `services`)."""
    # Not before a collection: it would take a twentieth of the start, and find a thousandth of it.
    gc.freeze()


async def _serve(name: str, settings: S, work: Work[S], streams: Sequence[StreamName], signals: StopSignals) -> None:
    log = configure(settings.log_format, settings.log_level, name)
    _spare_the_collector()
    redis = connect(settings.redis_url.get_secret_value())
    runtime = Runtime(
        name=name,
        settings=settings,
        log=log,
        redis=redis,
        scripts=Scripts(redis, settings.partitions),
        connections=Connections(settings.mysql_url.get_secret_value()),
    )
    signals.attach(runtime.stop)
    site = await _serve_metrics(runtime)
    try:
        await patiently(lambda: _check_partitions(runtime), runtime.stop, log, "check the partitions")
        log.info("started", partitions=settings.partitions)
        await signals.bound(_work(runtime, work, streams), log)
        log.info("stopped")
    except StoppedError:
        log.info("stopped")
    except StopServiceError:
        raise
    except Exception:
        log.exception("ended by an error")
        raise SystemExit(1) from None
    finally:
        await site.cleanup()
        await redis.aclose()
        await runtime.connections.close()


async def _work(runtime: Runtime[S], work: Work[S], streams: Sequence[StreamName]) -> None:
    watching = asyncio.create_task(_watch(runtime, streams))
    try:
        await work(runtime)
    finally:
        runtime.stop.set()
        await watching


async def _check_partitions(runtime: Runtime[S]) -> None:
    """The number of partitions is fixed when Redis is first used: another one would look for contents elsewhere."""
    own = str(runtime.settings.partitions)
    await _claim_partitions(runtime)
    stored = await runtime.redis.hget(META, "partitions")
    if stored != own.encode():
        stored = stored.decode() if isinstance(stored, bytes) else stored
        raise StopServiceError(
            f"RESHELVE_PARTITIONS: is {own}, but this Redis was first used with {stored}: set it to {stored}",
        )


async def _claim_partitions(runtime: Runtime[S]) -> None:
    await runtime.redis.hsetnx(META, "schema", SCHEMA)
    await runtime.redis.hsetnx(META, "partitions", str(runtime.settings.partitions))


async def _serve_metrics(runtime: Runtime[S]) -> web.AppRunner:
    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        missing = await runtime.unready()
        if missing:
            return web.json_response({"status": "not ready", "missing": missing}, status=503)
        return web.json_response({"status": "ready"})

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLEANUP_S)
    await runner.setup()
    host, port = runtime.settings.metrics_host, runtime.settings.metrics_port
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise StopServiceError(f"RESHELVE_METRICS_PORT: cannot listen on {host}:{port}: {error.strerror}") from None
    return runner


async def _watch(runtime: Runtime[S], streams: Sequence[StreamName]) -> None:
    """Keep the gauges of the streams that this service reads, and an eye on the number of partitions."""
    contents = Contents(runtime.scripts)
    for name in streams:
        metrics.RECLAIMED.labels(name)
        metrics.DEAD_LETTERED.labels(name, CONSUMERS_DIED)
        metrics.STREAM_BACKLOG.labels(name).set(0)
        metrics.STREAM_PENDING.labels(name).set(0)
        metrics.STREAM_OLDEST_SECONDS.labels(name).set(0)
    while not runtime.stop.is_set():
        try:
            # Again and again: a Redis that was emptied has forgotten the number, and may be given another.
            await _check_partitions(runtime)
            for name in streams:
                backlog, pending, oldest_ms = await contents.watch(name)
                metrics.STREAM_BACKLOG.labels(name).set(backlog)
                metrics.STREAM_PENDING.labels(name).set(pending)
                age_s = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
                metrics.STREAM_OLDEST_SECONDS.labels(name).set(age_s)
            waiting = await contents.waiting()
            metrics.DEAD_LETTERS.set(waiting["dead"])
            metrics.REVIEWS_WAITING.set(waiting["review"])
            metrics.POSTPONED.set(waiting["later"])
            # A Redis that was emptied has lost them, and would take a service with another number of partitions in.
            await _claim_partitions(runtime)
        except StopServiceError as error:
            runtime.log.error("stopping", error=str(error))
            runtime.stop.set()
        except RedisError as error:
            if not is_outage(error):
                raise
        await pause(runtime.stop, _WATCH_S)
