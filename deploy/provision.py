"""Make MySQL ready for the services: `python -m deploy.provision DIRECTORY` makes database, accounts and tables.

DIRECTORY is what `deploy.accounts` wrote, and root's password beside it. Every step is safe to repeat; after an upgrade
that brings a new table, the accounts get their rights to it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import asyncmy

from cli.migrate import migrate
from deploy.accounts import MYSQL_ACCOUNTS, PREFIX, Naming, mysql_statements, password_in
from deploy.hand_out import ROOT_PASSWORD
from shared.errors import ReshelveError
from shared.mysql_url import MySQLAddress


async def provision(directory: Path, server: MySQLAddress, level_root: Path | None) -> list[str]:
    """The steps of the migration that were applied. Raises what `migrate` raises, and MySQLError."""
    naming = Naming(server.database)
    passwords = {name: password_in(directory / f"mysql-{name}.password") for name in MYSQL_ACCOUNTS}
    root = replace(server, user="root", password=password_in(directory / ROOT_PASSWORD), database="")
    database = f"CREATE DATABASE IF NOT EXISTS `{server.database}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    await _execute(root, [database, *mysql_statements("migrator.sql", passwords, naming)])
    migrator = replace(server, user=PREFIX + "migrator", password=passwords["migrator"])
    steps = await migrate(migrator.url(), level_root)
    await _execute(root, mysql_statements("grants.sql", passwords, naming))
    return steps


async def _execute(address: MySQLAddress, statements: list[str]) -> None:
    arguments = address.connect_arguments() | {"database": None}
    connection = await asyncmy.connect(autocommit=True, init_command="SET sql_notes = 0", **arguments)
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
    finally:
        await connection.ensure_closed()


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m deploy.provision", description="Make MySQL ready.")
    parser.add_argument("directory", type=Path, help="where the passwords are")
    parser.add_argument("--mysql", default="mysql:3306", metavar="HOST:PORT", help="the server")
    parser.add_argument("--database", default="reshelve", help="the database")
    parser.add_argument("--level-root", type=Path, help="make the sample levels here, if there are no levels yet")
    wanted = parser.parse_args(arguments)
    host, _, port = wanted.mysql.rpartition(":")
    server = MySQLAddress(host=host, port=int(port), user="", password="", database=wanted.database)
    try:
        steps = asyncio.run(provision(wanted.directory, server, wanted.level_root))
    except (OSError, ValueError, ReshelveError, asyncmy.errors.MySQLError) as error:
        sys.stderr.write(f"provision: {error}\n")
        return 1
    sys.stdout.write("".join(f"applied {step}\n" for step in steps) or "up to date\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
