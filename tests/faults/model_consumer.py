"""A consumer one script at a time: what all services have in common. Until it crashes it forgets nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shared.keys import GROUPS, StreamName
from shared.redis_client import connect
from shared.state.moves import RawEntry
from shared.state.scripts import Scripts
from tests.faults.model_world import ModelWorld

T = TypeVar("T")
P = 0
"""All contents share one partition: nothing but the scripts keeps them apart."""


def pick(items: Sequence[T], number: int) -> T:
    """From the end: 0 is the latest, others are what zombies hold."""
    return items[-1 - number % len(items)]


class Bench:
    """A Redis for code that is not async."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self.redis: Any = connect(url)
        self.scripts = Scripts(self.redis, 1)
        self.keys = self.scripts.partitions[P]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self.do(self.redis.aclose())
        self._loop.close()


@dataclass(eq=False)
class Consumer:
    """A process: its hand is what it believes to hold, `past` all that it ever had."""

    name: str
    streams: Sequence[StreamName]
    bench: Bench
    world: ModelWorld
    hand: dict[bytes, RawEntry] = field(default_factory=dict)
    past: list[RawEntry] = field(default_factory=list)

    def crash(self) -> None:
        self.hand.clear()
        self.past.clear()

    def read(self, limit: int = 2) -> None:
        for stream in self.streams:
            key = self.bench.keys.stream(stream)
            found = self.bench.do(self.bench.redis.xreadgroup(GROUPS[stream], self.name, {key: ">"}, count=limit))
            for _, rows in found or []:
                self._take([RawEntry(stream, P, entry_id, fields) for entry_id, fields in rows])

    def reclaim(self, limit: int = 2) -> None:
        """With a lease of 0: whatever anybody holds, whether it lives or not."""
        for stream in self.streams:
            arguments = [GROUPS[stream], self.name, 0, "-", limit, 1_000_000]
            _, _, *rows = self._call("reclaim", stream, arguments)
            self._take(
                [
                    RawEntry(stream, P, entry_id, dict(zip(flat[0::2], flat[1::2], strict=True)), deliveries)
                    for entry_id, deliveries, flat in rows
                ]
            )

    def renew(self) -> None:
        for stream in self.streams:
            ids = [entry.entry_id for entry in self.hand.values() if entry.stream == stream]
            kept = self._call("renew", stream, [GROUPS[stream], self.name, *ids])
            for entry_id in set(ids) - set(kept):
                del self.hand[entry_id]

    def hand_back(self) -> None:
        for stream in self.streams:
            ids = [entry.entry_id for entry in self.hand.values() if entry.stream == stream]
            self._call("hand_back", stream, [GROUPS[stream], self.name, 0, *ids])
        self.hand.clear()

    def _take(self, entries: Sequence[RawEntry]) -> None:
        self.hand.update({entry.entry_id: entry for entry in entries})
        self.past += entries

    def _call(self, script: str, stream: StreamName, arguments: Sequence[Any]) -> Any:
        return self.bench.do(self.bench.scripts.call(script, [self.bench.keys.stream(stream)], arguments))

    def sweep(self) -> None:
        """Take up what is in nobody's hands, as stale."""
        for stream in self.streams:
            self._call("adopt", stream, [GROUPS[stream], self.name, 1, "-", 100])

    def is_removed(self) -> None:
        """An operator's XGROUP DELCONSUMER, which drops what it holds; the process knows nothing of it."""
        for stream in self.streams:
            key = self.bench.keys.stream(stream)
            self.bench.do(self.bench.redis.xgroup_delconsumer(key, GROUPS[stream], self.name))
