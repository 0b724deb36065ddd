"""`reshelve up`: the whole system on this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from cli.replicas import Watch
from cli.system import Plan, System, running
from cli.terminal import console, shown
from shared.levels import Levels
from shared.mysql_url import parse_mysql_url
from shared.patience import StoppedError, pause
from shared.redis_url import place

_FOLLOW_S = 0.2


async def up(plan: Plan, stop: asyncio.Event, *, verbose: bool) -> int:
    """Runs until `stop`. With `verbose` the services' logs are printed too."""
    out = console()
    watch = Watch(stop)
    out.print("starting …")
    try:
        async with running(plan, watch, out.print) as system:
            for line in introduction(system, await system.session.catalog.levels(), plan.data_dir):
                out.print(line)
            logs = [replica.log for replica in system.replicas.replicas]
            following = asyncio.create_task(_follow(logs if verbose else [], out, stop))
            await stop.wait()
            out.print("stopping …")
            await following
    except StoppedError:
        pass
    out.print("stopped")
    return 0


def introduction(system: System, levels: Levels, data_dir: Path) -> list[str]:
    """What runs and where it listens; no passwords."""
    replicas = system.replicas.replicas
    metrics = ", ".join(f"{replica.name} {replica.metrics_url.removeprefix('http://')}" for replica in replicas)
    lines = [
        f"reshelve is up: {len(replicas)} services, ready in {system.seconds:.1f} s",
        f"  HTTP     {system.http_url}",
        f"  metrics  {metrics}",
        f"  Redis    {place(system.settings.redis_url.get_secret_value())}{_owner(system, 'redis_url')}",
        f"  MySQL    {_mysql_place(system)}{_owner(system, 'mysql_url')}",
    ]
    for level in levels:
        missing = "" if Path(level.path).is_dir() else "  (not there: make or mount it)"
        span = f"{level.min_counts}-{level.max_counts}"
        lines.append(f"  level    {level.content_level} {span}  {shown(level.path)}{missing}")
    lines.append(f"  logs     {data_dir.resolve() / 'logs'}")
    lines.append("Ctrl-C stops it.")
    return lines


def _mysql_place(system: System) -> str:
    address = parse_mysql_url(system.settings.mysql_url.get_secret_value())
    return f"{address.host}:{address.port}, database {address.database}"


def _owner(system: System, setting: str) -> str:
    home = system.private.get(setting)
    return f" (private, data in {home})" if home else ""


async def _follow(logs: Iterable[Path], out: Console, stop: asyncio.Event) -> None:
    """Print what is added to the logs from now on, until stopped; whole lines only."""
    ends = {log: log.stat().st_size for log in logs}
    while not stop.is_set():
        await pause(stop, _FOLLOW_S)
        for log, end in ends.items():
            with log.open("rb") as file:
                file.seek(end)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            ends[log] = end + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                out.out(line, highlight=False)
