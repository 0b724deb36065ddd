"""Running the Lua scripts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from shared.keys import PartitionKeys, partition_of
from shared.redis_client import servers

_LUA = Path(__file__).parent.parent / "lua"

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the name by which Redis caches it."""

    text: str
    sha: str


@cache
def load(name: str) -> Script:
    """The script `shared/lua/<name>.lua`."""
    text = (_LUA / f"{name}.lua").read_text()
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Scripts:
    """Calls scripts by name; knows the keys of every partition."""

    def __init__(self, redis: Redis, partitions: int) -> None:
        """`redis` answers in bytes and must not repeat commands by itself."""
        self.redis = redis
        self.partitions = [PartitionKeys(partition) for partition in range(partitions)]

    def of(self, cid: str) -> PartitionKeys:
        """The keys of the cid's partition."""
        return self.partitions[partition_of(cid, len(self.partitions))]

    def by_partition(self, cids: Iterable[str]) -> dict[int, list[str]]:
        """The cids of each partition, in their order."""
        found: dict[int, list[str]] = defaultdict(list)
        for cid in cids:
            found[self.of(cid).partition].append(cid)
        return found

    async def known(self, page: int) -> AsyncIterator[list[str]]:
        """The cids of all contents that have a hash of their own, some `page` at a time; one may come twice."""
        everywhere: Sequence[Any] = await servers(self.redis)
        for server in everywhere:
            cursor = 0
            while True:
                cursor, names = await server.scan(cursor, match="reshelve:{*}:content:*", count=page)
                yield [name.decode().split(":content:", 1)[1] for name in names]
                if not cursor:
                    break

    async def call(self, name: str, keys: Sequence[str], arguments: Iterable[Argument]) -> Any:
        """The script's reply. Raises redis.RedisError; whether the script ran is then unknown."""
        script = load(name)
        values = (*keys, *arguments)
        try:
            return await self.redis.evalsha(script.sha, len(keys), *values)
        except NoScriptError:
            # A restarted server has an empty cache; EVAL fills it.
            return await self.redis.eval(script.text, len(keys), *values)
