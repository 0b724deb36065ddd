"""Bring a database to the schema of this version."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncmy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from asyncmy.errors import MySQLError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from shared.errors import InvalidError, ReshelveError, RetryError, StopServiceError
from shared.levels import Level, Levels
from shared.mysql_url import MySQLAddress, parse_mysql_url

SAMPLE_LEVELS = "sample_levels"
_MIGRATIONS = Path(__file__).resolve().parent.parent / "deploy" / "migrations"
_SAMPLE_RANGES = (("bronze", 0, 999), ("silver", 1000, 1999), ("gold", 2000, 3001))
_LOCK_WAIT_S = 120
_LOCK_NAME_MAX_CHARACTERS = 64
_TRIGGERS_NOT_TRUSTED = 1419
_PASSING_CODES = {1040, 1053, 2002, 2003, 2005, 2006, 2013, 2014}
"""Too many connections, shutting down, cannot connect, connection lost."""


async def migrate(mysql_url: str, level_root: Path | None) -> list[str]:
    """Apply what is missing; the names of the steps applied. Safe to repeat, and to run in two places at once.

    With `level_root` the sample levels, and their directories beneath it, are made if the level table is empty.
    Raises InvalidError for the arguments, RetryError when MySQL cannot be reached or another migration goes on for
    minutes, StopServiceError when MySQL refuses a step.
    """
    address = parse_mysql_url(mysql_url)
    samples = None if level_root is None else sample_levels(level_root)
    try:
        async with _locked(address) as connection:
            steps = await connection.run_sync(_upgrade)
            if samples is not None and await _insert_samples(connection, samples):
                steps.append(SAMPLE_LEVELS)
            return steps
    except (DBAPIError, MySQLError) as error:
        raise _explained(error, address) from error
    except CommandError as error:
        raise StopServiceError(
            f"the schema of {address.database} is at a revision that this version does not know ({error}): "
            "use the newer version of Reshelve that made it",
        ) from error


def sample_levels(level_root: Path) -> Levels:
    """Bronze, silver and gold, each in its directory beneath `level_root`. Raises InvalidError for an over-long one."""
    root = level_root.resolve()
    return Levels(Level(name, lowest, highest, str(root / name)) for name, lowest, highest in _SAMPLE_RANGES)


@asynccontextmanager
async def _locked(address: MySQLAddress) -> AsyncIterator[AsyncConnection]:
    """A connection that is alone in migrating this database. It holds the lock itself: both are lost together."""
    arguments = address.connect_arguments()

    async def connect() -> Any:
        return await asyncmy.connect(**arguments)

    engine = create_async_engine("mysql+asyncmy://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text("SET SESSION sql_notes = 0"))  # the driver logs each "already exists"
        got = await connection.scalar(
            text("SELECT GET_LOCK(:name, :wait_s)"),
            {"name": _lock_name(address.database), "wait_s": _LOCK_WAIT_S},
        )
        if got != 1:
            raise RetryError(
                "migration lock",
                f"another migration of {address.database} has run for {_LOCK_WAIT_S} s",
            )
        # The lock stays the session's. A transaction left open here would keep Alembic from committing its own.
        await connection.commit()
        yield connection


def _lock_name(database: str) -> str:
    """Locks are the server's: the name has the database in it."""
    name = f"reshelve-migrate:{database}"
    if len(name) <= _LOCK_NAME_MAX_CHARACTERS:
        return name
    return "reshelve-migrate:" + hashlib.blake2s(database.encode(), digest_size=16).hexdigest()


def _upgrade(connection: Connection) -> list[str]:
    applied: list[str] = []

    def note(*, step: Any, **_: Any) -> None:
        applied.append(Path(step.up_revision.module.__file__).stem)

    # As Alembic would make it, but for a name that MySQL ignores with a warning.
    connection.execute(
        text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    )
    connection.commit()
    config = Config(attributes={"connection": connection, "on_version_apply": note})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
    return applied


async def _insert_samples(connection: AsyncConnection, levels: Levels) -> bool:
    """False when there are levels already: they are the operator's."""
    if await connection.scalar(text("SELECT COUNT(*) FROM level")):
        return False
    for level in levels:
        _make_directory(Path(level.path))
    await connection.execute(
        text(
            "INSERT INTO level (content_level, min_counts, max_counts, path)"
            " VALUES (:content_level, :min_counts, :max_counts, :path)",
        ),
        [asdict(level) for level in levels],
    )
    await connection.commit()
    return True


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidError(
            f"the level directory {path} cannot be made: {error.strerror}: choose another root"
        ) from None


def _explained(error: DBAPIError | MySQLError, address: MySQLAddress) -> ReshelveError:
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    # SQLAlchemy's own text would show the statement and its values; the server's does not.
    code, message = (*original.args, None, None)[:2]
    if code == _TRIGGERS_NOT_TRUSTED:
        return StopServiceError(
            "MySQL lets no ordinary user make a trigger while its binary log is on: "
            "start it with log_bin_trust_function_creators=1, or migrate as a user with SUPER",
        )
    where = f"{address.host}:{address.port}"
    if code in _PASSING_CODES:
        return RetryError("mysql unreachable", f"{where}: {message}")
    return StopServiceError(f"migration of {address.database} on {where} failed: {code} {message}")
