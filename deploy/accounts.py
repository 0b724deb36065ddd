"""Accounts in Redis and MySQL, one per service: `python -m deploy.accounts DIRECTORY` fills the templates in.

It writes into DIRECTORY, readable by its owner only: a password per account, made on first use and kept afterwards;
`users.acl` for Redis, which holds their hashes; `migrator.sql` and `grants.sql` for MySQL.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_BOTH = ("ingest", "planner", "mover", "recorder", "operator")
REDIS_ACCOUNTS = (*_BOTH, "probe")
MYSQL_ACCOUNTS = (*_BOTH, "migrator")
PREFIX = "reshelve_"

_DEPLOY = Path(__file__).resolve().parent
_SECRET = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Naming:
    """Which database on which server, for whom: `host` is what MySQL matches the clients' addresses with."""

    database: str = "reshelve"
    host: str = "%"
    prefix: str = PREFIX


def redis_users(passwords: Mapping[str, str], prefix: str = PREFIX) -> list[str]:
    """The lines of Redis' `aclfile`, one per user, with the hashes of the passwords."""
    values = {
        name.upper() + "_SHA256": sha256(_safe(password).encode()).hexdigest() for name, password in passwords.items()
    }
    users: list[str] = []
    for line in _filled("redis/users.acl", values | {"PREFIX": prefix}).splitlines():
        if line.startswith(" "):
            users[-1] += " " + line.strip()
        elif line and not line.startswith("#"):
            users.append(line)
    return users


def mysql_statements(template: str, passwords: Mapping[str, str], naming: Naming) -> list[str]:
    """The statements of `grants.sql` or `migrator.sql`. They hold the passwords."""
    values = {name.upper() + "_PASSWORD": _safe(password) for name, password in passwords.items()}
    # Where rights are given for a whole database, its name is a pattern.
    values["DATABASE_PATTERN"] = re.sub(r"([_%\\])", r"\\\1", naming.database)
    values |= {"DATABASE": naming.database, "HOST": naming.host, "PREFIX": naming.prefix}
    lines = [line for line in _filled(f"mysql/{template}", values).splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def write_accounts(directory: Path, naming: Naming) -> None:
    """Write everything into `directory`; passwords that are there stay. Safe to repeat."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    redis = {name: password_in(directory / f"redis-{name}.password") for name in REDIS_ACCOUNTS}
    mysql = {name: password_in(directory / f"mysql-{name}.password") for name in MYSQL_ACCOUNTS}
    write_file(directory / "users.acl", "".join(f"{line}\n" for line in redis_users(redis, naming.prefix)))
    for template in ("migrator.sql", "grants.sql"):
        statements = mysql_statements(template, mysql, naming)
        write_file(directory / template, "".join(f"{statement};\n" for statement in statements))


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = (_DEPLOY / template).read_text()
    return re.sub(r"@([A-Z0-9_]+)@", lambda found: values[found[1]], text)


def _safe(password: str) -> str:
    # It stands within quotes in SQL.
    if not _SECRET.fullmatch(password):
        raise ValueError("a password may hold A-Z a-z 0-9 _ - only: delete its file, and one is made")
    return password


def password_in(path: Path) -> str:
    """The password in the file; it is made where there is none."""
    if not path.exists():
        write_file(path, secrets.token_hex(24) + "\n")
    return path.read_text().strip()


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Whole or not at all, and never readable by more than `mode` says."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    part.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m deploy.accounts", description="Accounts in Redis and MySQL.")
    parser.add_argument("directory", type=Path, help="where passwords, users.acl, migrator.sql and grants.sql go")
    parser.add_argument("--database", default="reshelve", help="the MySQL database")
    parser.add_argument("--host", default="%", help="from where MySQL lets the accounts in")
    wanted = parser.parse_args(arguments)
    try:
        write_accounts(wanted.directory, Naming(wanted.database, wanted.host))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"accounts: {error}\n")
        return 1
    sys.stdout.write(f"written to {wanted.directory}: see docs/security.md for what goes where\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
