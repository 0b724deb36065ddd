"""The operator's verbs: look for what no service will move on, and mend it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from shared.keys import GROUPS, PartitionKeys, StreamName
from shared.state.contents import ContentState
from shared.state.joining import Argument
from shared.state.scripts import Scripts

_PAGE = 500
_VIEWS_PAGE = 20
"""An entry of views may hold thousands, which the script reads all."""

Shelf = Literal["views", "moves", "placed", "retires", "later", "dead"]
"""Where an entry may lie."""
SHELVES: tuple[Shelf, ...] = ("later", "moves", "placed", "retires", "dead")
"""In the order in which to look for a content's entry: one that leaves `later` meanwhile is found on its stream."""


@dataclass(frozen=True, slots=True)
class Lying:
    """An entry where it lies; `origin` is the stream that it is for. `orphaned`: delivered, but in nobody's hands."""

    shelf: Shelf
    partition: int
    entry_id: str
    origin: str
    cid: str
    move_id: str
    orphaned: bool = False


class Mending:
    """Reads change nothing at all; both repairs change nothing where something has moved on."""

    def __init__(self, scripts: Scripts) -> None:
        """All reads and writes go through `scripts`."""
        self._scripts = scripts
        self._redis: Any = scripts.redis

    async def lying(self, partition: int, shelf: Shelf) -> AsyncIterator[list[Lying]]:
        """The entries on one shelf, a page at a time."""
        keys = self._scripts.partitions[partition]
        pages = (
            self._later(keys) if shelf == "later" else self._dead(keys) if shelf == "dead" else self._on(keys, shelf)
        )
        async for page in pages:
            yield page

    async def _on(self, keys: PartitionKeys, stream: StreamName) -> AsyncIterator[list[Lying]]:
        after = "-"
        while True:
            arguments: list[Argument] = [GROUPS[stream], after, _VIEWS_PAGE if stream == "views" else _PAGE]
            rows = await self._scripts.call("entries", [keys.stream(stream)], arguments)
            if not rows:
                return
            yield [
                Lying(stream, keys.partition, entry_id.decode(), stream, _text(cid), _text(move_id), orphaned == 1)
                for entry_id, cid, move_id, orphaned in rows
            ]
            after = f"({rows[-1][0].decode()}"

    async def _later(self, keys: PartitionKeys) -> AsyncIterator[list[Lying]]:
        cursor = 0
        while True:
            cursor, rows = await self._redis.zscan(keys.later, cursor, count=_PAGE)
            yield [_waiting(keys.partition, member) for member, _ in rows]
            if not cursor:
                return

    async def _dead(self, keys: PartitionKeys) -> AsyncIterator[list[Lying]]:
        after = "-"
        while rows := await self._redis.xrange(keys.dead, min=after, count=_PAGE):
            yield [
                Lying(
                    "dead",
                    keys.partition,
                    entry_id.decode(),
                    _text(fields.get(b"origin", b"")),
                    _text(fields.get(b"f:cid", b"")),
                    _text(fields.get(b"f:move_id", b"")),
                )
                for entry_id, fields in rows
            ]
            after = f"({rows[-1][0].decode()}"

    async def is_there(self, entry: Lying) -> bool:
        """Whether the entry still lies where it was seen."""
        keys = self._scripts.partitions[entry.partition]
        if entry.shelf == "later":
            return await self._redis.zscore(keys.later, entry.entry_id) is not None
        key = keys.dead if entry.shelf == "dead" else keys.stream(entry.shelf)
        return bool(await self._redis.xrange(key, entry.entry_id, entry.entry_id))

    async def is_orphaned(self, entry: Lying) -> bool:
        """Whether a stream's entry is there, was delivered, and is in nobody's hands."""
        key, group = self._stream(entry)
        rows = await self._scripts.call("entries", [key], [group, entry.entry_id, 1])
        return bool(rows) and rows[0][0].decode() == entry.entry_id and rows[0][3] == 1

    def _stream(self, entry: Lying) -> tuple[str, str]:
        assert entry.shelf not in {"later", "dead"}
        return self._scripts.partitions[entry.partition].prefix + entry.shelf, GROUPS[entry.shelf]  # type: ignore[index]

    def known(self) -> AsyncIterator[list[str]]:
        """The cids that Redis holds a state of, some pages long; one may come twice."""
        return self._scripts.known(_PAGE)

    async def up_for_review(self, cids: Sequence[str]) -> list[bool]:
        """Per cid whether it is up for review."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for cid in cids:
                pipe.zscore(self._scripts.of(cid).review, cid)
            return [score is not None for score in await pipe.execute()]

    async def reviews(self, partition: int) -> AsyncIterator[list[str]]:
        """The cids that are up for review in a partition; one may come twice."""
        cursor = 0
        while True:
            review = self._scripts.partitions[partition].review
            cursor, rows = await self._redis.zscan(review, cursor, count=_PAGE)
            yield [member.decode() for member, _ in rows]
            if not cursor:
                return

    async def mend(self, state: ContentState, level: str, filename: str) -> bool:
        """Make the content idle where the catalog says, and review it; False where `state` is past."""
        keys = self._scripts.of(state.cid)
        seen: list[Argument] = [state.version, state.status, state.move_id, state.attempt, state.worker_id]
        arguments = [state.cid, *seen, level, filename]
        return bool(await self._scripts.call("mend", [keys.content(state.cid), keys.review], arguments))

    async def requeue(self, entry: Lying) -> bool:
        """Deliver an orphaned entry anew; False where it is orphaned no more."""
        key, group = self._stream(entry)
        return bool(await self._scripts.call("requeue", [key], [group, entry.entry_id]))

    def partitions_of(self, cids: Collection[str]) -> set[int]:
        """The partitions that these contents are in."""
        return {self._scripts.of(cid).partition for cid in cids}

    @property
    def partitions(self) -> range:
        """All of them."""
        return range(len(self._scripts.partitions))


def _waiting(partition: int, member: bytes) -> Lying:
    try:
        origin, *flat = orjson.loads(member)
        fields = dict(zip(flat[0::2], flat[1::2], strict=True))
        cid, move_id = str(fields.get("cid", "")), str(fields.get("move_id", ""))
    except (ValueError, TypeError):
        origin, cid, move_id = "", "", ""
    return Lying("later", partition, _text(member), str(origin), cid, move_id)


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")
