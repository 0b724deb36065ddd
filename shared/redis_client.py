"""Redis clients, set up so that no command is ever repeated behind our backs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.redis_cluster import Cluster
from shared.redis_url import seeds

COMMAND_TIMEOUT_S = 10.0
"""How long a command may take before its outcome counts as unknown."""

_DOWN = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    OutOfMemoryError,
    MasterDownError,
    ClusterDownError,
    TryAgainError,
)
_DOWN_PREFIXES = (
    "MISCONF",
    "OOM",
    "NOREPLICAS",
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "BUSY ",
    "UNKILLABLE",
    "UNBLOCKED",  # Redis 7.0: the stream went away under a blocked reader
)


_CONNECTIONS = 2048
"""All partitions are asked at once, on two streams each. A pool that waits instead costs a third more per command."""

T = TypeVar("T")


def connect(url: str, *, timeout_s: float = COMMAND_TIMEOUT_S, connections: int = _CONNECTIONS) -> Redis:
    """A client that answers in bytes. A blocking read needs one of its own, with `timeout_s` beyond its BLOCK.

    `connections` are the most to one server. On a cluster a command must name a key of ours first; see `together`
    and `servers` for what else differs.
    """

    def one(server_url: str) -> Redis:
        pool = ConnectionPool.from_url(
            server_url,
            # The library would repeat a command whose answer was lost: an XADD would land twice.
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            socket_timeout=timeout_s,
            socket_connect_timeout=5,
            socket_keepalive=True,
            health_check_interval=0,
            max_connections=connections,
            protocol=2,
            # Redis 7.0 does not know CLIENT SETINFO, not even as a right that an account may be given.
            driver_info=None,
        )
        pool.connection_class = _honest(pool.connection_class)
        return Redis.from_pool(pool)

    nodes = seeds(url)
    return Cluster(nodes, one) if nodes else one(url)


def _honest(kind: Any) -> Any:
    """A kind of connection that says so when it was lost, and packs commands in C."""

    class Honest(kind):  # type: ignore[misc]  # which base it is, the URL decides
        def pack_command(self, *args: Any) -> list[bytes]:
            # The asyncio client's own is Python, and takes four times as long for a tally. Some commands are two words.
            return [hiredis.pack_command((*args[0].encode().split(), *args[1:]))]

        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            try:
                await super().send_packed_command(*args, **options)
            except RuntimeError as error:
                # What uvloop says of a socket that was closed between the pool's look at it and this write.
                raise RedisConnectionError(f"the connection was lost: {error}") from error

    return Honest


def together(redis: Redis, partitions: Iterable[T]) -> list[list[T]]:
    """The partitions in groups that one command can span: all of them on one Redis, each alone on a cluster."""
    if isinstance(redis, Cluster):
        return [[partition] for partition in partitions]
    return [list(partitions)]


async def servers(redis: Redis) -> Sequence[Redis]:
    """The servers that hold keys, for what must be asked of each: one Redis, or a cluster's masters."""
    return await redis.masters() if isinstance(redis, Cluster) else [redis]


def is_down(error: BaseException) -> bool:
    """True where Redis cannot be reached or refuses to work just now: wait and go on."""
    if isinstance(error, _DOWN):
        return True
    return isinstance(error, ResponseError) and any(prefix in str(error)[:80] for prefix in _DOWN_PREFIXES)


def is_missing_group(error: BaseException) -> bool:
    """True where a stream or its consumer group is gone: Redis was emptied."""
    text = str(error)
    # The last is XINFO's way to say it.
    return isinstance(error, ResponseError) and any(
        sign in text for sign in ("NOGROUP", "requires the key to exist", "no such key")
    )
