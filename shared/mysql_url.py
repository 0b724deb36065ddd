"""Where MySQL is and how to log in: `mysql://user:password@host:port/database`, and nothing that shows the password."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from shared.errors import InvalidError

_FORM = "mysql://user:password@host:port/database"
_DEFAULT_PORT = 3306
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class MySQLAddress:
    """One database on one server. With `tls`, the certificate is checked against `tls_ca`, else the system's CAs."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    tls: bool = False
    tls_ca: str | None = None

    def connect_arguments(self) -> dict[str, Any]:
        """What asyncmy.connect takes. Raises InvalidError when the file `ssl_ca` cannot be used."""
        arguments: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "charset": "utf8mb4",
        }
        if self.tls:
            arguments["ssl"] = self._tls_context()
        return arguments

    def url(self, database: str | None = None) -> str:
        """The address as a URL, password included; `database` takes the place of this one's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        name = quote(self.database if database is None else database, safe="")
        query = f"?ssl_ca={quote(self.tls_ca, safe='/')}" if self.tls_ca else "?ssl=true" if self.tls else ""
        return f"mysql://{login}@{host}:{self.port}/{name}{query}"

    def _tls_context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.tls_ca)
        except OSError as error:  # ssl.SSLError is one too
            raise InvalidError(f"ssl_ca {self.tls_ca!r} cannot be used: {error}: name a PEM file of CAs") from None


def parse_mysql_url(url: str) -> MySQLAddress:
    """User, password and database are percent-decoded. Raises InvalidError, which never shows the password.

    `?ssl=true` asks for TLS, `?ssl_ca=/path/ca.pem` for TLS with that CA.
    """
    parts, port = _split(url)
    if parts.scheme != "mysql":
        raise InvalidError(f"the MySQL URL does not begin with mysql://: write {_FORM}")
    if not parts.hostname:
        raise InvalidError(f"the MySQL URL names no host: write {_FORM}")
    if not parts.username:
        raise InvalidError(f"the MySQL URL names no user: write {_FORM}")
    if parts.fragment or "#" in url:
        raise InvalidError("the MySQL URL contains '#': write it as %23")
    database = _decode(parts.path.removeprefix("/"), "database")
    if not database or "/" in parts.path[1:]:
        raise InvalidError(f"the MySQL URL must name one database after the host: write {_FORM}")
    tls, tls_ca = _tls(parts.query)
    return MySQLAddress(
        host=_decode(parts.hostname, "host"),
        port=port,
        user=_decode(parts.username, "user"),
        password=_decode(parts.password or "", "password"),
        database=database,
        tls=tls,
        tls_ca=tls_ca,
    )


def _split(url: str) -> tuple[SplitResult, int]:
    # urlsplit drops tabs and newlines silently: a password with one would become another password.
    if any(character <= " " or character == "\x7f" for character in url):
        raise InvalidError("the MySQL URL contains white space or a control character: percent-encode it")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidError(f"the MySQL URL has a malformed host: write {_FORM}, an IPv6 address in []") from None
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise InvalidError(
            "the MySQL URL's port is not a number from 1 to 65535: correct it, "
            "or percent-encode ':', '/', '?', '#' and '@' in the password",
        )
    return parts, _DEFAULT_PORT if port is None else port


def _decode(text: str, what: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidError(f"the MySQL URL's {what} is not percent-encoded UTF-8") from None
    if "\0" in decoded:
        raise InvalidError(f"the MySQL URL's {what} contains a NUL character")
    return decoded


def _tls(query: str) -> tuple[bool, str | None]:
    wanted: bool | None = None
    tls_ca: str | None = None
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "ssl":
            wanted = _TRUTH.get(value.lower())
            if wanted is None:
                raise InvalidError("the MySQL URL's ssl is neither true nor false: write one of them")
        elif name == "ssl_ca":
            if not value:
                raise InvalidError("the MySQL URL has an empty ssl_ca: name a PEM file of CAs")
            tls_ca = value
        else:
            # Not shown: it may be the rest of a password with a '?' in it.
            raise InvalidError("the MySQL URL has an unknown parameter: ssl and ssl_ca are known")
    if tls_ca is not None and wanted is False:
        raise InvalidError("the MySQL URL has ssl=false and ssl_ca: leave one of them out")
    return wanted or tls_ca is not None, tls_ca
