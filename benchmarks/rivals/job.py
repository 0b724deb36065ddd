"""The job that every rival does: rename a file, and one committed UPDATE. No fsync, no history, no second look."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

CONCURRENCY = 16
"""Jobs at once in one process of an asyncio rival; each has a connection to MySQL. More did not make any faster."""
BATCH = 50
"""Jobs that are queued at once."""

_UPDATE = "UPDATE jobs SET content_level = 'silver', update_time = UTC_TIMESTAMP(3) WHERE cid = %s"


def redis_url() -> str:
    return os.environ["RIVAL_REDIS_URL"]


def mysql_arguments() -> dict[str, Any]:
    """What asyncmy.connect and pymysql.connect take; every statement commits by itself."""
    url = urlsplit(os.environ["RIVAL_MYSQL_URL"])
    return {
        "host": url.hostname,
        "port": url.port,
        "user": url.username,
        "password": unquote(url.password or ""),
        "database": url.path.removeprefix("/"),
        "autocommit": True,
    }


def cids(jobs: int) -> list[str]:
    return [str(n) for n in range(jobs)]


def rename(cid: str) -> None:
    os.rename(f"{os.environ['RIVAL_SOURCE']}/{cid}", f"{os.environ['RIVAL_TARGET']}/{cid}")  # noqa: PTH104  # as fast as it goes


async def relocate(pool: Any, cid: str) -> None:
    """With a connection from an asyncmy pool."""
    # On the same filesystem a rename takes less time than a way to a thread and back.
    rename(cid)
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(_UPDATE, (cid,))


def relocate_blocking(connection: Any, cid: str) -> None:
    """With a connection of pymysql."""
    rename(cid)
    with connection.cursor() as cursor:
        cursor.execute(_UPDATE, (cid,))
