"""Where the demo plays: a directory of its own, made afresh each time, and servers that hold nothing yet."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from cli.environment import OperatorSettings, variable
from cli.session import redis_at
from shared.catalog import Catalog, CatalogRefusedError, Connections
from shared.errors import InvalidError, StopServiceError
from shared.keys import META

_MARK = "made-by-reshelve-demo"


class DemoHome:
    """Removed at the end, unless `keep` is set or the block ended with an error: then its logs are worth a look."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.keep = False
        self._lock = -1

    def __enter__(self) -> Self:
        """Raises StopServiceError where another demo plays, or where something else lies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(self.path.name + ".lock")
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._clear()
        except BlockingIOError:
            os.close(self._lock)
            raise StopServiceError(f"another demo plays in {self.path}: wait for its end, or use --data-dir") from None
        except BaseException:
            os.close(self._lock)
            raise
        self.path.mkdir()
        (self.path / _MARK).touch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None and not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def _clear(self) -> None:
        if not self.path.exists():
            return
        # Whatever lies there is thrown away only if we made it.
        if not (self.path / _MARK).exists():
            raise StopServiceError(f"{self.path} was not made by a demo: move it away, or use --data-dir")
        shutil.rmtree(self.path)


async def check_servers(settings: OperatorSettings) -> None:
    """Servers that were named must hold nothing of Reshelve's yet. Raises StopServiceError where they do."""
    redis_url, mysql_url = settings.redis_url.get_secret_value(), settings.mysql_url.get_secret_value()
    if redis_url and await _is_used_redis(redis_url):
        raise StopServiceError(
            "the demo needs an empty Redis, but the one in RESHELVE_REDIS_URL is in use: "
            f"name an unused database, or unset {variable('redis_url')} for a private server",
        )
    if mysql_url and await _has_catalog(mysql_url):
        raise StopServiceError(
            "the demo needs an empty catalog, but the one in RESHELVE_MYSQL_URL has levels: "
            f"name an empty database, or unset {variable('mysql_url')} for a private server",
        )


async def _is_used_redis(url: str) -> bool:
    redis = redis_at(url)
    try:
        return bool(await redis.exists(META))
    finally:
        await redis.aclose()


async def _has_catalog(url: str) -> bool:
    connections = Connections(url)
    try:
        return bool(await Catalog(connections).count_by_level())
    except InvalidError:
        return True
    except CatalogRefusedError:  # no tables yet; what else is wrong, the migration will say
        return False
    finally:
        await connections.close()
