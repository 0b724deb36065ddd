"""Partitions and the names of Redis keys. Pure.

Every key of a partition carries its hash tag, so that a script touches one slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from zlib import crc32

SCHEMA = "2"
"""The layout of what follows. Since 2 the counts are in `counts`; before, they were in the contents' own hashes."""
META = "reshelve:meta"
"""Hash: `partitions`, `schema`, `levels` (fingerprint of the level table that every content was last held against),
`marked:<path>` (a level's directory that has its marker)."""
BREAKERS = "reshelve:breakers"
"""Hash: `<worker>/<level>` to the ms until which that mover's breaker of the level counts as open."""
FIGURES = "reshelve:figures"
"""Hash: what one replica works out for all, as JSON: `contents` (per level), `bytes/<level>`."""
WORKING_OUT = "reshelve:figuring:"
"""Before a figure's name: the lock of whoever works it out, and afterwards the time in which nobody need."""

StreamName = Literal["views", "moves", "placed", "retires"]
WORK_STREAMS: tuple[StreamName, ...] = ("views", "moves", "placed", "retires")
GROUPS: dict[StreamName, str] = {"views": "planner", "moves": "mover", "placed": "recorder", "retires": "mover"}
"""The one consumer group that reads each stream."""


def partition_of(cid: str, partitions: int) -> int:
    """`crc32(cid) % partitions`; fixed for the life of the data."""
    return crc32(cid.encode()) % partitions


def are_of(partition: int, cids: Iterable[str], partitions: int) -> bool:
    """True where `partition` is that of each cid; faster than asking one by one."""
    return {digest % partitions for digest in map(crc32, map(str.encode, cids))} <= {partition}


@dataclass(frozen=True)
class PartitionKeys:
    """The keys of one partition."""

    partition: int

    @cached_property
    def prefix(self) -> str:
        return f"reshelve:{{{self.partition}}}:"

    def stream(self, name: StreamName) -> str:
        return self.prefix + name

    @cached_property
    def dead(self) -> str:
        return self.prefix + "dead"

    @cached_property
    def review(self) -> str:
        return self.prefix + "review"

    @cached_property
    def counts(self) -> str:
        """Hash of all counts: cid to `count at` and a mark."""
        return self.prefix + "counts"

    @cached_property
    def later(self) -> str:
        """Zset of entries that wait for their time, scored by it: `[stream, field, value, ...]` as JSON."""
        return self.prefix + "later"

    @cached_property
    def content_prefix(self) -> str:
        return self.prefix + "content:"

    def content(self, cid: str) -> str:
        return self.content_prefix + cid

    def seen(self, marker: str) -> str:
        """A batch or event id that was taken in."""
        return f"{self.prefix}seen:{marker}"

    def idempotency(self, key: str) -> str:
        """The digest of the body that came with an Idempotency-Key; lives in the key's own partition."""
        return f"{self.prefix}idempotency:{key}"
