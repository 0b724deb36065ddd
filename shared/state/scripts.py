"""Running the Lua scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from shared.keys import PartitionKeys, partition_of

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

    async def call(self, name: str, keys: Sequence[str], arguments: Iterable[Argument]) -> Any:
        """The script's reply. Raises redis.RedisError; whether the script ran is then unknown."""
        script = load(name)
        values = (*keys, *arguments)
        try:
            return await self.redis.evalsha(script.sha, len(keys), *values)
        except NoScriptError:
            # A restarted server has an empty cache; EVAL fills it.
            return await self.redis.eval(script.text, len(keys), *values)
