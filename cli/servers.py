"""Private servers for a first run and for tests."""

from __future__ import annotations

from cli.private_mysql import INSTALL_MYSQL, PrivateMySQL, find_mysql_server
from cli.private_redis import INSTALL_REDIS, PrivateRedis, find_redis_server

__all__ = [
    "INSTALL_MYSQL",
    "INSTALL_REDIS",
    "PrivateMySQL",
    "PrivateRedis",
    "find_mysql_server",
    "find_redis_server",
]
