"""A Redis and a MySQL that can be killed and come back where they were, with what they had on disk."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cli.migrate import migrate
from cli.server_process import LOOPBACK
from cli.servers import PrivateMySQL, PrivateRedis
from tests.accounts import Accounts
from tests.conftest import execute, run_in_thread
from tests.ports import free_port


class Servers:
    """Both know the accounts of deploy/, as which the services log in; their own URLs may do everything."""

    def __init__(self, home: Path, rng: random.Random) -> None:
        """Starts both; MySQL has the tables."""
        self.home = home
        self.mysql = PrivateMySQL.start(home / "mysql", free_port(rng))
        try:
            run_in_thread(migrate(self.mysql.url, None))
            port = free_port(rng)
            self.accounts = Accounts.named(f"redis://{LOOPBACK}:{port}/0", self.mysql.url)
            self.accounts.make_mysql_users(self.mysql.admin_url, execute)
            self.redis = self._redis(port)
        except BaseException:
            self.mysql.stop()
            raise

    @classmethod
    @contextmanager
    def running(cls, home: Path, rng: random.Random | None = None) -> Iterator[Self]:
        servers = cls(home, rng or random.Random(os.getpid()))
        try:
            yield servers
        finally:
            servers.redis.stop()
            servers.mysql.stop()

    def kill_redis(self) -> None:
        _kill(self.redis)

    def start_redis(self) -> None:
        self.redis = self._redis(self.redis.port)

    def _redis(self, port: int) -> PrivateRedis:
        # In its configuration: users that ACL SETUSER makes would be gone after a restart.
        return PrivateRedis.start(self.home / "redis", port, users=self.accounts.redis_users())

    def kill_mysql(self) -> None:
        _kill(self.mysql)

    def start_mysql(self) -> None:
        self.mysql = PrivateMySQL.start(self.home / "mysql", self.mysql.port)


def _kill(server: PrivateRedis | PrivateMySQL) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
