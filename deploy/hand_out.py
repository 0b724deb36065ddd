"""Every container its own secrets: `python -m deploy.hand_out DIRECTORY` makes them.

DIRECTORY has a room per reader, which is a volume that one container sees and no other:

    all                       what `deploy.accounts` writes: every password; for who sets up the accounts in MySQL
    redis, mysql, grafana     users.acl and the health check's password; root.password; admin.password
    ingest, planner, mover,   redis.url, mysql.url; for ingest also the file of tokens
    recorder, operator

Nothing is made anew that is there: safe to repeat, as every `docker compose up` does. To rotate a password, delete its
file in `all`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from deploy.accounts import PREFIX, REDIS_ACCOUNTS, Naming, password_in, write_accounts, write_file

ROOT_PASSWORD = "mysql-root.password"  # noqa: S105  # a file's name
_READABLE = 0o644
"""The servers run as users whose numbers differ from image to image: it is the room that keeps others out."""


@dataclass(frozen=True, slots=True)
class Servers:
    """`host:port` of each."""

    redis: str
    mysql: str


def hand_out(directory: Path, servers: Servers, naming: Naming) -> None:
    """Fill all rooms. Safe to repeat."""
    everything = directory / "all"
    write_accounts(everything, naming)
    root, admin = (password_in(everything / name) for name in (ROOT_PASSWORD, "grafana-admin.password"))
    tokens = {role: password_in(everything / f"{role}.token") for role in ("producer", "operator")}
    users = (everything / "users.acl").read_text()
    _put(directory / "redis", {"users.acl": users, "probe.password": _of(everything, "probe")})
    _put(directory / "mysql", {"root.password": root})
    _put(directory / "grafana", {"admin.password": admin})
    for name in REDIS_ACCOUNTS:
        if name != "probe":
            _put(directory / name, _urls(everything, name, servers, naming))
    _put(directory / "ingest", {"tokens": "".join(f"{role} {token}\n" for role, token in tokens.items())})


def _urls(everything: Path, name: str, servers: Servers, naming: Naming) -> dict[str, str]:
    mysql = password_in(everything / f"mysql-{name}.password")
    return {
        "redis.url": f"redis://{PREFIX}{name}:{_of(everything, name)}@{servers.redis}/0",
        "mysql.url": f"mysql://{PREFIX}{name}:{mysql}@{servers.mysql}/{quote(naming.database, safe='')}",
    }


def _of(everything: Path, name: str) -> str:
    return password_in(everything / f"redis-{name}.password")


def _put(room: Path, files: dict[str, str]) -> None:
    room.mkdir(mode=0o755, exist_ok=True)
    for name, text in files.items():
        write_file(room / name, text, mode=_READABLE)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m deploy.hand_out", description="Every container its own secrets.")
    parser.add_argument("directory", type=Path, help="where the rooms are")
    parser.add_argument("--redis", default="redis:6379", metavar="HOST:PORT", help="where services find Redis")
    parser.add_argument("--mysql", default="mysql:3306", metavar="HOST:PORT", help="where services find MySQL")
    parser.add_argument("--database", default="reshelve", help="the MySQL database")
    wanted = parser.parse_args(arguments)
    try:
        hand_out(wanted.directory, Servers(wanted.redis, wanted.mysql), Naming(wanted.database))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"hand_out: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
