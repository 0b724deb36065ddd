"""Users in Redis and MySQL as deploy/ gives them to the services, on the servers of the tests."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncmy
import pytest
import redis

from deploy.accounts import MYSQL_ACCOUNTS, REDIS_ACCOUNTS, Naming, mysql_statements, redis_users
from shared.mysql_url import parse_mysql_url


class Execute(Protocol):
    """Runs statements at a URL."""

    def __call__(self, url: str, *statements: str) -> None: ...


@dataclass(frozen=True)
class Accounts:
    """URLs by account. The names carry a prefix, so that several runs can share servers."""

    redis_urls: Mapping[str, str]
    mysql_urls: Mapping[str, str]
    naming: Naming
    passwords: Mapping[str, str] = field(repr=False)

    @classmethod
    def named(cls, redis_url: str, mysql_url: str) -> Accounts:
        """None of the users is there yet."""
        prefix = f"rt{secrets.token_hex(4)}_"
        passwords = {account: secrets.token_hex(16) for account in {*REDIS_ACCOUNTS, *MYSQL_ACCOUNTS}}
        address = parse_mysql_url(mysql_url)
        mysql_urls = {
            account: replace(address, user=prefix + account, password=passwords[account]).url()
            for account in MYSQL_ACCOUNTS
        }
        redis_urls = {
            account: with_login(redis_url, prefix + account, passwords[account]) for account in REDIS_ACCOUNTS
        }
        return cls(redis_urls, mysql_urls, Naming(address.database, "%", prefix), passwords)

    def redis_users(self) -> list[str]:
        """Lines of an ACL file. The default user, by which the tests look from outside, is left out."""
        passwords = {account: self.passwords[account] for account in REDIS_ACCOUNTS}
        lines = redis_users(passwords, self.naming.prefix)
        return [line for line in lines if not line.startswith("user default ")]

    def make_redis_users(self, admin_url: str) -> None:
        """On a server that was started without them, until it ends."""
        with redis.Redis.from_url(admin_url) as client:
            for line in self.redis_users():
                _, name, *rules = line.split()
                try:
                    client.execute_command("ACL", "SETUSER", name, "reset", *rules)
                except (redis.exceptions.NoPermissionError, redis.ResponseError) as error:
                    pytest.fail(
                        f"cannot make Redis users for the tests ({error}): let TEST_REDIS_URL log in as a user with "
                        "+acl on Redis or Valkey 7.0 or newer, or unset it for a private server"
                    )

    def make_mysql_users(self, admin_url: str, execute: Execute, template: str = "grants.sql") -> None:
        """Needs the tables."""
        try:
            execute(admin_url, *mysql_statements(template, self.passwords, self.naming))
        except asyncmy.errors.MySQLError as error:
            pytest.fail(
                f"cannot make MySQL users for the tests ({error}): let TEST_MYSQL_URL log in as a user with "
                "CREATE USER and GRANT OPTION, or unset it for a private server"
            )

    def denials(self, admin_url: str) -> list[str]:
        """What Redis has refused these users so far; one line each, with how often."""
        with redis.Redis.from_url(admin_url) as client:
            rows = client.acl_log(128)
        return [
            f"{row['username']}: {row['reason']} {row['object']} ({row['context']}), {row['count']} times"
            for row in rows
            if row["username"].startswith(self.naming.prefix)
        ]

    def remove(self, redis_admin_url: str, mysql_admin_url: str, execute: Execute) -> None:
        """Safe to repeat."""
        with redis.Redis.from_url(redis_admin_url) as client, contextlib.suppress(redis.ResponseError):
            client.execute_command("ACL", "DELUSER", *(self.naming.prefix + account for account in REDIS_ACCOUNTS))
        users = ", ".join(f"'{self.naming.prefix}{account}'@'{self.naming.host}'" for account in MYSQL_ACCOUNTS)
        with contextlib.suppress(asyncmy.errors.MySQLError):
            execute(mysql_admin_url, "SET sql_notes = 0", f"DROP USER IF EXISTS {users}")


def with_login(url: str, user: str, password: str) -> str:
    """The Redis URL with another login."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{place}"))
