"""What a command works with: the settings, Redis and the catalog of a running system."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from cli.environment import OperatorSettings, needed_url, operator_settings, variable
from shared.catalog import Catalog, Connections, Drops, Inspection, Registry
from shared.errors import InvalidError, StopServiceError
from shared.keys import META
from shared.redis_client import connect
from shared.redis_url import check_redis_url
from shared.state.contents import Contents
from shared.state.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Session:
    """`redis` answers in bytes."""

    redis: Redis
    scripts: Scripts
    contents: Contents
    catalog: Catalog
    registry: Registry
    inspection: Inspection
    drops: Drops


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[Session]:
    """Raises StopServiceError where a setting is missing or wrong, RedisError where Redis cannot be reached."""
    settings = operator_settings(data_dir)
    redis_url = needed_url(settings, "redis_url", data_dir)
    mysql_url = needed_url(settings, "mysql_url", data_dir)
    async with session_at(redis_url, mysql_url, settings) as session:
        yield session


@asynccontextmanager
async def session_at(redis_url: str, mysql_url: str, settings: OperatorSettings) -> AsyncIterator[Session]:
    """A session with the servers at these URLs."""
    connections = Connections(mysql_url)
    redis = redis_at(redis_url)
    try:
        scripts = Scripts(redis, await partitions_of(redis, settings))
        catalog, registry = Catalog(connections), Registry(connections)
        yield Session(redis, scripts, Contents(scripts), catalog, registry, Inspection(connections), Drops(connections))
    finally:
        await redis.aclose()
        await connections.close()


def redis_at(url: str) -> Redis:
    """A client. Raises StopServiceError for a malformed URL."""
    try:
        check_redis_url(url)
    except InvalidError as error:
        raise StopServiceError(f"{variable('redis_url')}: {error}") from None
    return connect(url)


async def partitions_of(redis: Redis, settings: OperatorSettings) -> int:
    """What this Redis was first used with; for one not used yet, the setting.

    Raises StopServiceError where RESHELVE_PARTITIONS is set to another number.
    """
    stored = await redis.hget(META, "partitions")
    if stored is None:
        return settings.partitions
    partitions = int(stored)
    if settings.fixed_partitions not in {None, partitions}:
        raise StopServiceError(
            f"RESHELVE_PARTITIONS: is {settings.fixed_partitions}, but this Redis was first used with {partitions}: "
            f"set it to {partitions}, or not at all",
        )
    return partitions
