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
from shared.redis_client import servers, together
from shared.state.joining import Argument, Joining

_LUA = Path(__file__).parent.parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the name by which Redis caches it."""

    text: str
    sha: str


@cache
def load(name: str, *, each: bool = False) -> Script:
    """The script `shared/lua/<name>.lua`; with `each` for several partitions at a time, see each.lua."""
    text = (_LUA / f"{name}.lua").read_text()
    if each:
        text = (_LUA / "each.lua").read_text().replace("-- the script\n", text, 1)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class Scripts:
    """Calls scripts by name; knows the keys of every partition."""

    def __init__(self, redis: Redis, partitions: int) -> None:
        """`redis` answers in bytes and must not repeat commands by itself."""
        self.redis = redis
        self.partitions = [PartitionKeys(partition) for partition in range(partitions)]
        self._joins = len(together(redis, (0, 1))) == 1
        self._joining = Joining(alone=self.call, together=self._call_each)

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
        return await self._run(load(name), keys, arguments)

    async def join(self, name: str, keys: Sequence[str], arguments: Sequence[Argument], *, packed: int = 0) -> Any:
        """As `call`; what is asked of the script for other partitions at the same moment goes along where it can.

        `packed`: how many values are within the arguments, besides themselves. It bounds what is joined.
        """
        if self._joins:
            return await self._joining.call(name, keys, arguments, packed)
        return await self.call(name, keys, arguments)

    async def _call_each(self, name: str, keys: Sequence[str], arguments: Iterable[Argument]) -> Any:
        return await self._run(load(name, each=True), keys, arguments)

    async def _run(self, script: Script, keys: Sequence[str], arguments: Iterable[Argument]) -> Any:
        values = (*keys, *arguments)
        try:
            return await self.redis.evalsha(script.sha, len(keys), *values)
        except NoScriptError:
            # A restarted server has an empty cache; EVAL fills it.
            return await self.redis.eval(script.text, len(keys), *values)
