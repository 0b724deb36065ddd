"""Which Redis URLs are sound.

One Redis: `redis://user:password@host:port/db`, `rediss://…?ssl_ca_certs=…` and `unix://…`. A Redis Cluster:
`redis+cluster://user:password@host:port,host:port` and `rediss+cluster://…`; a few of its nodes are enough.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from redis.asyncio.connection import parse_url

from shared.errors import InvalidError

_FORM = "write redis://user:password@host:port/db, or rediss://, unix://, redis+cluster://host:port,host:port"
_LOGIN = frozenset({"db", "username", "password"})
_TLS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_CLUSTER = "+cluster"


def seeds(url: str) -> Sequence[str]:
    """A cluster's URL as the plain URLs of the nodes that it names; empty for one Redis. Raises ValueError."""
    parts = urlsplit(url)
    if not parts.scheme.endswith(_CLUSTER):
        return []
    login, at, nodes = parts.netloc.rpartition("@")
    scheme = parts.scheme.removesuffix(_CLUSTER)
    return [urlunsplit(parts._replace(scheme=scheme, netloc=f"{login}{at}{node}")) for node in nodes.split(",")]


def place(url: str) -> str:
    """Where a sound URL leads to, for people to read; without the login."""
    if nodes := seeds(url):
        return f"the cluster with {', '.join(urlsplit(node).netloc.rpartition('@')[2] for node in nodes)}"
    known = parse_url(url)
    where = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
    return f"{where}, database {known.get('db', 0)}"


def check_redis_url(url: str) -> None:
    """Raises InvalidError, which never shows a part of the URL that may be a password."""
    try:
        nodes = seeds(url)
        for one in nodes or [url]:
            parse_url(one)
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        # The library's text may show the password.
        raise InvalidError(f"not a Redis URL: {_FORM}") from None
    if nodes:
        _check_nodes(nodes)
    tls = url.startswith(("rediss://", "rediss+cluster://"))
    known = (_LOGIN | _TLS if tls else _LOGIN) - ({"db"} if nodes else set())
    if not known.issuperset(name for name, _ in query):
        # Any other would be handed to the client as it stands: timeouts and retries are ours to choose.
        raise InvalidError(f"the Redis URL has a parameter that is not known here: {', '.join(sorted(known))} are")
    for name, value in query:
        if name in _TLS:
            _check_pem(name, value)


def _check_nodes(nodes: Sequence[str]) -> None:
    for node in nodes:
        parts = urlsplit(node)
        if parts.scheme not in {"redis", "rediss"}:
            raise InvalidError(f"not a Redis URL: {_FORM}")
        if not parts.hostname:
            raise InvalidError(f"the URL of the Redis Cluster has a node without a host: {_FORM}")
        if parts.path.strip("/") not in {"", "0"}:
            raise InvalidError("a Redis Cluster has no databases: leave /… away at the end of its URL")


def _check_pem(name: str, value: str) -> None:
    try:
        if name == "ssl_ca_certs":
            ssl.create_default_context(cafile=value)
        else:
            Path(value).open("rb").close()
    except OSError as error:  # ssl.SSLError is one too
        raise InvalidError(f"{name} {value!r} cannot be used: {error}: name a PEM file") from None
