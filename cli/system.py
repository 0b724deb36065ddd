"""The whole system on this machine: servers, schema and services, one after the other, and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from cli.environment import OperatorSettings, remove_environment, variable, write_environment
from cli.ports import MetricsPorts, http_port, url_of
from cli.replicas import SERVICES, Replica, Replicas, Tell, Watch, log_file
from cli.servers import PrivateMySQL, PrivateRedis
from cli.session import Session, session_at
from shared.errors import StopServiceError
from shared.mysql_url import parse_mysql_url
from shared.patience import StoppedError, pause
from shared.settings import read_settings

_LOOK_S = 1.0

_Server = PrivateRedis | PrivateMySQL


@dataclass(frozen=True)
class Plan:
    """What to start. `port` 0 means a free one; `level_root` None means `levels` in the data directory."""

    data_dir: Path
    port: int
    replicas: Mapping[str, int] = field(default_factory=dict)
    level_root: Path | None = None
    log_format: str | None = None


@dataclass(frozen=True)
class System:
    """A system that is ready. `private` names the settings of the servers that are ours."""

    http_url: str
    replicas: Replicas
    settings: OperatorSettings
    private: Mapping[str, Path]
    session: Session
    seconds: float
    """How long it took to be ready."""


@asynccontextmanager
async def running(plan: Plan, watch: Watch, tell: Tell) -> AsyncIterator[System]:
    """A system that is ready; it has ended when the block has, services first.

    Raises StoppedError when `watch.stop` comes before it is ready, and `watch.fault` at the end, if there is one.
    """
    began = time.monotonic()
    given = read_settings(OperatorSettings)
    port = http_port(given.http_host, plan.port)
    http_url = url_of(given.http_host, port)
    # It takes seconds to load, and few commands need it: let it load while the servers start.
    loading = asyncio.create_task(asyncio.to_thread(import_module, "cli.migrate"))
    async with _servers(plan.data_dir.resolve(), given, watch) as (settings, private):
        root = plan.level_root or plan.data_dir / "levels"
        await (await loading).migrate(settings.mysql_url.get_secret_value(), root)
        redis_url, mysql_url = settings.redis_url.get_secret_value(), settings.mysql_url.get_secret_value()
        async with session_at(redis_url, mysql_url, settings) as session:
            children = {variable(name): getattr(settings, name).get_secret_value() for name in private}
            children["RESHELVE_PARTITIONS"] = str(len(session.scripts.partitions))
            replicas = _replicas(plan, settings, children | {"RESHELVE_HTTP_PORT": str(port)}, watch, tell)
            try:
                replicas.start()
                await replicas.ready([http_url])
                if not watch.stop.is_set():
                    yield System(http_url, replicas, settings, private, session, time.monotonic() - began)
                elif watch.fault is None:
                    raise StoppedError
            finally:
                await replicas.stop()
                if watch.fault is not None:
                    raise watch.fault


@asynccontextmanager
async def _servers(
    data_dir: Path, given: OperatorSettings, watch: Watch
) -> AsyncIterator[tuple[OperatorSettings, Mapping[str, Path]]]:
    """The settings with the URLs of private servers where none were given, and where those servers keep their data."""
    kinds: dict[str, tuple[str, Callable[[Path], _Server]]] = {
        "redis_url": ("redis", PrivateRedis.start),
        "mysql_url": ("mysql", PrivateMySQL.start),
    }
    missing = {name: kind for name, kind in kinds.items() if not getattr(given, name).get_secret_value()}
    if "mysql_url" not in missing:
        parse_mysql_url(given.mysql_url.get_secret_value())
    homes = {name: data_dir / directory for name, (directory, _) in missing.items()}
    started = await asyncio.gather(
        *(asyncio.to_thread(start, homes[name]) for name, (_, start) in missing.items()),
        return_exceptions=True,
    )
    servers = {name: one for name, one in zip(missing, started, strict=True) if not isinstance(one, BaseException)}
    looking = asyncio.create_task(_look_after(list(servers.values()), watch))
    try:
        for one in started:
            if isinstance(one, BaseException):
                raise one
        if watch.stop.is_set():
            raise StoppedError
        urls = {name: server.url for name, server in servers.items()}
        if urls:
            write_environment(data_dir, {variable(name): url for name, url in urls.items()})
        yield given.at(urls), homes
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        if servers and len(servers) == len(missing):
            remove_environment(data_dir)
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers.values()))


async def _look_after(servers: list[_Server], watch: Watch) -> None:
    """A server of ours that ends by itself ends all: without it nothing works."""
    while not watch.stop.is_set():
        for server in servers:
            if server.exit_code is not None:
                said = f"; the last lines of its log:\n{server.log_tail()}"
                watch.fail(StopServiceError(f"a private server ended with exit code {server.exit_code}{said}"))
        await pause(watch.stop, _LOOK_S)


def _replicas(plan: Plan, settings: OperatorSettings, children: dict[str, str], watch: Watch, tell: Tell) -> Replicas:
    ports = MetricsPorts(settings.metrics_host)
    logs = plan.data_dir.resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if plan.log_format is not None:
        children["RESHELVE_LOG_FORMAT"] = plan.log_format
    if plan.replicas.get("ingest", 1) > 1:
        children["RESHELVE_HTTP_SHARE_PORT"] = "1"
    replicas = []
    for service in SERVICES:
        for number in range(1, plan.replicas.get(service, 1) + 1):
            name = service if number == 1 else f"{service}-{number}"
            log = log_file(logs, name)
            replicas.append(Replica(service, name, log, settings.metrics_host, ports.choose(service), children))
    return Replicas(replicas, ports, watch, tell)
