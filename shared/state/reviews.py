"""The planner's verbs on contents that are up for review."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from shared.levels import COUNT_MAX, Band
from shared.messages import Move
from shared.state.contents import Status
from shared.state.counts import Counted
from shared.state.joining import Argument
from shared.state.scripts import Scripts

_LOOKED_AT = ("level", "status", "version")


@dataclass(slots=True)
class Due:
    """What a review has to know of a content's state; see ContentState, of which this is a part.

    Not frozen: that would be a third of the time that a look takes here.
    """

    cid: str
    level: str
    count: int
    at: int
    status: Status
    version: str
    absolute: bool

    @classmethod
    def of(cls, cid: str, values: Sequence[bytes | None]) -> Self:
        """From the values of `_LOOKED_AT` in their order, and what `counts` holds."""
        level, status, version, counts = values
        counted = Counted.parse(counts)
        return cls(
            cid,
            level.decode() if level else "",
            counted.count,
            counted.at,
            status.decode() if status else "",  # type: ignore[arg-type]  # the scripts write no other
            version.decode() if version else "0",
            counted.absolute,
        )


@dataclass(frozen=True, slots=True)
class Opening:
    """A relocation to open. `base` is added to the count of a content that Redis did not know, else 0."""

    move: Move
    version: str
    base: int


@dataclass(frozen=True, slots=True)
class Resting:
    """A content to leave where it is while its count stays in `band`; `again_ms` is when to look again, if ever."""

    cid: str
    version: str
    level: str
    base: int
    band: Band
    why: str
    again_ms: int | None = None


class Reviews:
    """All calls take items of one partition; each item's version guards against a content that changed meanwhile."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts

    async def claim(self, partition: int, limit: int, lease_ms: int) -> list[str]:
        """Due cids, at most `limit`; they are due again after `lease_ms` unless decided on."""
        keys = self._scripts.partitions[partition]
        return [cid.decode() for cid in await self._scripts.join("claim", [keys.review], [limit, lease_ms])]

    async def look(self, partition: int, cids: Sequence[str]) -> list[Due]:
        """What is known of the contents, in their order."""
        keys = self._scripts.partitions[partition]
        names = [keys.counts, *(keys.content(cid) for cid in cids)]
        rows = await self._scripts.join("look", names, [len(_LOOKED_AT), *_LOOKED_AT, *cids])
        return [Due.of(cid, row) for cid, row in zip(cids, rows, strict=True)]

    async def open(self, partition: int, openings: Sequence[Opening]) -> list[bool]:
        """Per item whether it was opened; False where the content changed since it was looked at."""
        keys = self._scripts.partitions[partition]
        names = [keys.review, keys.stream("moves"), keys.counts]
        arguments: list[Argument] = [0, COUNT_MAX]
        for opening in openings:
            move = opening.move
            flat = move.wire()
            names.append(keys.content(move.cid))
            arguments[0] = len(flat)
            arguments += (move.cid, opening.version, move.from_level, move.filename, opening.base)
            arguments += (move.move_id, move.to_level, move.why, *flat)
        return [reply == 1 for reply in await self._scripts.join("open", names, arguments)]

    async def rest(self, partition: int, restings: Sequence[Resting]) -> list[int]:
        """Per item 1 rests, 2 its count left the band meanwhile and it stays up for review, 0 it changed since."""
        keys = self._scripts.partitions[partition]
        names = [keys.review, keys.counts]
        arguments: list[Argument] = [COUNT_MAX]
        for item in restings:
            names.append(keys.content(item.cid))
            arguments += (item.cid, item.version, item.level, item.base)
            arguments += (item.band.lo, item.band.hi, item.why, "" if item.again_ms is None else item.again_ms)
        return list(await self._scripts.join("rest", names, arguments))

    async def unknown(
        self, partition: int, items: Sequence[tuple[str, str]], keep_ms: int, again_ms: int
    ) -> list[bool]:
        """Keep the counts of (cid, version) that the catalog does not name for `keep_ms`; ask again in `again_ms`."""
        keys = self._scripts.partitions[partition]
        return await self._each("unknown", [keys.review, keys.counts], partition, items, [keep_ms, again_ms])

    async def dismiss(self, partition: int, items: Sequence[tuple[str, str]]) -> list[bool]:
        """Drop the reviews of (cid, version) whose relocation is open or has failed."""
        return await self._each("dismiss", [self._scripts.partitions[partition].review], partition, items, [])

    async def _each(
        self,
        script: str,
        names: Sequence[str],
        partition: int,
        items: Sequence[tuple[str, str]],
        first: Sequence[Argument],
    ) -> list[bool]:
        keys = self._scripts.partitions[partition]
        names = [*names, *(keys.content(cid) for cid, _ in items)]
        arguments = [*first, *(value for item in items for value in item)]
        return [reply == 1 for reply in await self._scripts.join(script, names, arguments)]
