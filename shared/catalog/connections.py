"""Connections to MySQL or MariaDB, and which errors mean that it is worth waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncmy
from asyncmy import errors

from shared.errors import DeadLetterError, RetryError
from shared.mysql_url import MySQLAddress, parse_mysql_url

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_RECYCLE_S = 600

# Refused, gone or cut connections, too many of them, a server that is shutting down.
_DOWN = {2002, 2003, 2006, 2013, 2014, 2055, 1040, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1927, 3169, 4031}
# Not allowed in (yet), read-only after a failover, disk or table full.
_REFUSING = {1044, 1045, 1049, 1142, 1203, 1226, 1290, 1836, 1021, 1114, 3100}
# Lock wait, deadlock, a row changed since it was read.
_REPEAT = {1205, 1213, 1020}
_DUPLICATE = 1062


class CatalogDownError(RetryError):
    """MySQL cannot be reached or refuses to work just now; whether a COMMIT under way took effect is unknown."""


class CatalogBusyError(RetryError):
    """A deadlock or a lock wait: the transaction was rolled back, repeat it whole."""


class CatalogRefusedError(DeadLetterError):
    """MySQL understood and refused: repeating will not help."""


class CatalogDuplicateError(CatalogRefusedError):
    """A row with that key is there already."""


@contextmanager
def translated() -> Iterator[None]:
    """Raises the driver's errors as what happens next."""
    try:
        yield
    except errors.MySQLError as error:
        code = error.args[0] if error.args else None
        text = str(error.args[1]) if len(error.args) > 1 else str(error)
        if code in _REPEAT:
            raise CatalogBusyError("catalog busy", text) from error
        if code in _DOWN or code in _REFUSING or isinstance(error, errors.InterfaceError):
            raise CatalogDownError("catalog down", text) from error
        kind = CatalogDuplicateError if code == _DUPLICATE else CatalogRefusedError
        raise kind("catalog refused", f"{code}: {text}") from error
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        raise CatalogDownError("catalog down", str(error) or type(error).__name__) from error


class Connections:
    """A pool whose connections are opened when first needed, so that a service can start before its server."""

    def __init__(self, url: str, size: int = 4) -> None:
        """Raises InvalidError for a malformed URL."""
        self.address: MySQLAddress = parse_mysql_url(url)
        self._size = size
        self._pool: Any = None

    def _opened(self) -> Any:
        if self._pool is None:
            self._pool = asyncmy.Pool(
                minsize=0,
                maxsize=self._size,
                pool_recycle=_RECYCLE_S,
                autocommit=True,
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_READ_TIMEOUT_S,
                init_command="SET time_zone = '+00:00', innodb_lock_wait_timeout = 20",
                **self.address.connect_arguments(),
            )
        return self._pool

    @asynccontextmanager
    async def cursor(self) -> AsyncIterator[Any]:
        """A cursor on a connection in autocommit. Raises CatalogDownError, CatalogBusyError."""
        with translated():
            async with self._opened().acquire() as connection, connection.cursor() as cursor:
                yield cursor

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A cursor within one transaction, rolled back by any error. Raises CatalogDownError, CatalogBusyError."""
        with translated():
            async with self._opened().acquire() as connection:
                await connection.begin()
                try:
                    async with connection.cursor() as cursor:
                        yield cursor
                    await connection.commit()
                except BaseException:
                    # Never hand back a connection with a transaction open: its locks would stay.
                    connection.close()
                    raise

    async def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            self._pool.close()
            await self._pool.wait_closed()
            self._pool = None
