"""Increments on their way to sums per partition. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from shared.levels import COUNT_MAX
from shared.messages import Tally


@dataclass(frozen=True, slots=True)
class Increments:
    """Sound increments, still to be summed: one view of each cid, or as many as `views` says."""

    cids: Sequence[str]
    views: Sequence[int] = ()

    def add_to(self, sums: Counter[str]) -> None:
        if not self.views:
            # Counted without a step of the interpreter per view.
            sums.update(self.cids)
            return
        get = sums.get
        for cid, views in zip(self.cids, self.views, strict=True):
            sums[cid] = get(cid, 0) + views


def spread(sums: Mapping[str, int], partitions: int) -> dict[int, Tally]:
    """The sums of each partition, as `partition_of` has it; none is beyond the largest count."""
    # A list: it is asked for every content, and a dict takes a quarter longer.
    parts: list[dict[str, int]] = [{} for _ in range(partitions)]
    for cid, views, checksum in zip(sums, sums.values(), map(crc32, map(str.encode, sums)), strict=True):
        parts[checksum % partitions][cid] = views
    return {partition: Tally(_capped(part), {}) for partition, part in enumerate(parts) if part}


def _capped(part: dict[str, int]) -> dict[str, int]:
    if max(part.values()) <= COUNT_MAX:
        return part
    return {cid: min(views, COUNT_MAX) for cid, views in part.items()}
