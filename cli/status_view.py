"""The status as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from cli.terminal import amount, shown, size

if TYPE_CHECKING:  # status renders itself through this module
    from cli.status import Status


def render(status: Status) -> RenderableType:
    """Levels, streams, what waits, and who works."""
    waits = [
        amount(status.reviews, "review"),
        f"{status.later:,} waiting for a retry",
        amount(status.dead_letters, "dead letter"),
    ]
    parts = [levels(status), streams(status), ", ".join(waits), *breakers(status), consumers(status)]
    return Group(*parts)


def breakers(status: Status) -> list[str]:
    """A line per level whose work waits."""
    movers = Counter(one.level for one in status.breakers)
    return [
        f"{shown(level)} keeps failing: its moves wait on {amount(n, 'mover')}, see the movers' logs"
        for level, n in sorted(movers.items())
    ]


def levels(status: Status) -> Table:
    table = Table("level", "counts", box=None, pad_edge=False, title_justify="left")
    table.add_column("contents", justify="right")
    table.add_column("free", justify="right")
    table.add_column("path")
    for level in status.levels:
        free = "not visible" if level.free_bytes is None else size(level.free_bytes)
        span = f"{level.min_counts}-{level.max_counts}"
        table.add_row(level.content_level, span, f"{level.contents:,}", free, shown(level.path))
    return table


def streams(status: Status) -> Table:
    table = Table("stream", box=None, pad_edge=False)
    for name in ("backlog", "pending", "oldest"):
        table.add_column(name, justify="right")
    for stream in status.streams:
        oldest = "" if stream.oldest_s is None else f"{stream.oldest_s:.1f} s"
        table.add_row(stream.stream, f"{stream.backlog:,}", f"{stream.pending:,}", oldest)
    return table


def consumers(status: Status) -> RenderableType:
    if not status.consumers:
        return "no consumers: the services do not run"
    table = Table("group", "consumer", "reads", box=None, pad_edge=False)
    for name in ("pending", "idle"):
        table.add_column(name, justify="right")
    for consumer in status.consumers:
        idle = "" if consumer.idle_ms is None else f"{consumer.idle_ms / 1000:.1f} s"
        reads = ", ".join(consumer.streams)
        table.add_row(consumer.group, consumer.consumer, reads, f"{consumer.pending:,}", idle)
    return table
