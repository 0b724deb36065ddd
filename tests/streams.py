"""Redis as the scripts leave it: everything can be seen, states can be put in place, entries handed out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from shared.keys import GROUPS, WORK_STREAMS, PartitionKeys, StreamName
from shared.messages import Move, Placed, Retire, Tally
from shared.redis_client import connect
from shared.state.contents import Contents
from shared.state.dead_letters import spread
from shared.state.moves import Held, RawEntry
from shared.state.scripts import Scripts
from tests.samples import cids_of

PARTITIONS = 4
P = 2
"""The partition that most tests look at."""
CID, OTHER, THIRD = cids_of(P, 3, PARTITIONS)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def connected(url: str, partitions: int = PARTITIONS) -> AsyncIterator[Scripts]:
    redis = connect(url)
    try:
        yield Scripts(redis, partitions)
    finally:
        await redis.aclose()


COUNTED = ("count", "at", "lo", "hi", "absolute")
"""What `counts` holds of a content; all else is in its own hash."""
_AWAY = {"update", "moving", "done", "retiring", "failed"}


def counts_of(state: Mapping[str, str]) -> str:
    """The text in `counts` of a content with these fields."""
    if "lo" in state:
        mark = [state["lo"], state["hi"]]
    elif state.get("status") in _AWAY:
        mark = ["-"]
    else:
        mark = ["="] if "absolute" in state or "level" in state else []
    return " ".join([state.get("count", "0"), state.get("at", "0"), *mark])


def counted(held: bytes | None) -> dict[str, str]:
    """The fields that a text in `counts` stands for; `at` where there was a view."""
    if held is None:
        return {}
    count, at, *mark = held.decode().split()
    fields = {"count": count} | ({} if at == "0" else {"at": at})
    if len(mark) == 2:
        return fields | {"lo": mark[0], "hi": mark[1]}
    return fields | ({"absolute": "1"} if mark == ["="] else {})


class Streams:
    """One Redis, seen from outside."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.redis: Any = scripts.redis

    def keys(self, partition: int = P) -> PartitionKeys:
        return self.scripts.partitions[partition]

    async def make_groups(self) -> None:
        await Contents(self.scripts).make_groups(WORK_STREAMS)

    # --- contents ---

    async def content(self, cid: str = CID) -> dict[str, str]:
        """What is held of it in its own hash and in `counts`; see `counted`."""
        keys = self.scripts.of(cid)
        fields = await self.redis.hgetall(keys.content(cid))
        held = await self.redis.hget(keys.counts, cid)
        return {name.decode(): value.decode() for name, value in fields.items()} | counted(held)

    async def put_content(self, cid: str = CID, **fields: str | int) -> None:
        """Add fields to what is held of it; the mark is that of its status."""
        keys, texts = self.scripts.of(cid), {name: str(value) for name, value in fields.items()}
        texts = await self.content(cid) | texts
        own = {name: value for name, value in texts.items() if name not in COUNTED}
        if own:
            await self.redis.hset(keys.content(cid), mapping=own)
        if texts.keys() & set(COUNTED):
            await self.redis.hset(keys.counts, cid, counts_of(texts))

    async def lose(self, cid: str = CID) -> None:
        """As if Redis had never known it."""
        keys = self.scripts.of(cid)
        await self.redis.delete(keys.content(cid))
        await self.redis.hdel(keys.counts, cid)

    async def life_ms(self, cid: str = CID) -> int:
        """-1: for ever, -2: not there."""
        return int(await self.redis.pttl(self.scripts.of(cid).content(cid)))

    async def reviews(self) -> dict[str, int]:
        """When (ms) each cid is due, over all partitions."""
        found: dict[str, int] = {}
        for keys in self.scripts.partitions:
            rows = await self.redis.zrange(keys.review, 0, -1, withscores=True)
            found |= {cid.decode(): int(score) for cid, score in rows}
        return found

    async def put_review(self, cid: str = CID, due_ms: int = 1) -> None:
        await self.redis.zadd(self.scripts.of(cid).review, {cid: due_ms})

    async def later(self, partition: int = P) -> list[tuple[list[str], int]]:
        """(entry, when it is due)"""
        rows = await self.redis.zrange(self.keys(partition).later, 0, -1, withscores=True)
        return [(orjson.loads(member), int(score)) for member, score in rows]

    # --- streams ---

    async def add(self, stream: StreamName, message: Move | Placed | Retire | Tally, partition: int = P) -> bytes:
        flat: Sequence[str | bytes] = ["v1", message.pack()] if isinstance(message, Tally) else message.wire()
        return await self.add_raw(stream, flat, partition)

    async def add_raw(self, stream: StreamName, flat: Sequence[str | bytes], partition: int = P) -> bytes:
        entry_id: bytes = await self.redis.execute_command("XADD", self.keys(partition).stream(stream), "*", *flat)
        return entry_id

    async def deliver(
        self, stream: StreamName, consumer: str = "one", partition: int = P, limit: int = 1000
    ) -> list[RawEntry]:
        """New entries into the consumer's hands."""
        key = self.keys(partition).stream(stream)
        found = await self.redis.xreadgroup(GROUPS[stream], consumer, {key: ">"}, count=limit)
        return [RawEntry(stream, partition, entry_id, fields) for _, rows in found or [] for entry_id, fields in rows]

    async def hold(
        self, stream: StreamName, message: Move | Placed | Retire, consumer: str = "one", attempt: int = 0
    ) -> Held:
        """A new entry of this message in the consumer's hands."""
        partition = self.scripts.of(message.cid).partition
        await self.add(stream, message, partition)
        (entry,) = await self.deliver(stream, consumer, partition)
        return Held(stream, partition, entry.entry_id, message, attempt)

    async def entries(self, stream: StreamName, partition: int = P) -> list[dict[str, str]]:
        return await self._range(self.keys(partition).stream(stream))

    async def said(self, stream: StreamName, partition: int = P) -> list[dict[str, str]]:
        """What the entries say, whether in fields of their own or in their body."""
        return [spread(fields) for _, fields in await self.redis.xrange(self.keys(partition).stream(stream))]

    async def dead(self, partition: int = P) -> list[dict[str, str]]:
        return await self._range(self.keys(partition).dead)

    async def _range(self, key: str) -> list[dict[str, str]]:
        rows = await self.redis.xrange(key)
        return [
            {name.decode("latin-1"): value.decode("latin-1") for name, value in fields.items()} for _, fields in rows
        ]

    async def pending(self, stream: StreamName, partition: int = P) -> dict[bytes, str]:
        """In whose hands each entry is."""
        return {entry_id: consumer for entry_id, consumer, _, _ in await self._pending(stream, partition)}

    async def deliveries(self, stream: StreamName, partition: int = P) -> dict[bytes, int]:
        return {entry_id: times for entry_id, _, _, times in await self._pending(stream, partition)}

    async def idle_ms(self, stream: StreamName, partition: int = P) -> dict[bytes, int]:
        return {entry_id: idle for entry_id, _, idle, _ in await self._pending(stream, partition)}

    async def _pending(self, stream: StreamName, partition: int) -> list[tuple[bytes, str, int, int]]:
        rows = await self.redis.xpending_range(self.keys(partition).stream(stream), GROUPS[stream], "-", "+", 10_000)
        return [
            (row["message_id"], row["consumer"].decode(), row["time_since_delivered"], row["times_delivered"])
            for row in rows
        ]

    async def consumers(self, stream: StreamName, partition: int = P) -> set[str]:
        rows = await self.redis.xinfo_consumers(self.keys(partition).stream(stream), GROUPS[stream])
        return {row["name"].decode() for row in rows}

    # --- all of it ---

    async def everything(self) -> dict[str, Any]:
        """Every key with what it holds, whose hands entries are in, and whether it expires."""
        seen: dict[str, Any] = {}
        for key in sorted(await self.redis.keys("*")):
            kind = (await self.redis.type(key)).decode()
            expires = await self.redis.pttl(key) >= 0
            seen[key.decode()] = (kind, expires, await self._value(key, kind))
        for keys in self.scripts.partitions:
            for stream in WORK_STREAMS:
                if keys.stream(stream) in seen and await self.redis.xinfo_groups(keys.stream(stream)):
                    held = await self._pending(stream, keys.partition)
                    seen[f"pending {keys.stream(stream)}"] = [(row[0], row[1], row[3]) for row in held]
        return seen

    async def _value(self, key: bytes, kind: str) -> Any:
        if kind == "hash":
            return await self.redis.hgetall(key)
        if kind == "stream":
            return await self.redis.xrange(key)
        if kind == "zset":
            return await self.redis.zrange(key, 0, -1, withscores=True)
        return await self.redis.get(key)
