"""Which Redis URLs are sound: `redis://user:password@host:port/db`, `rediss://…?ssl_ca_certs=…` and `unix://…`."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio.connection import parse_url

from shared.errors import InvalidError

_FORM = "write redis://user:password@host:port/db, or rediss://, unix://"
_LOGIN = frozenset({"db", "username", "password"})
_TLS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})


def check_redis_url(url: str) -> None:
    """Raises InvalidError, which never shows a part of the URL that may be a password."""
    try:
        parse_url(url)
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        # The library's text may show the password.
        raise InvalidError(f"not a Redis URL: {_FORM}") from None
    known = _LOGIN | _TLS if url.startswith("rediss://") else _LOGIN
    if not known.issuperset(name for name, _ in query):
        # Any other would be handed to the client as it stands: timeouts and retries are ours to choose.
        raise InvalidError(f"the Redis URL has a parameter that is not known here: {', '.join(sorted(known))} are")
    for name, value in query:
        if name in _TLS:
            _check_pem(name, value)


def _check_pem(name: str, value: str) -> None:
    try:
        if name == "ssl_ca_certs":
            ssl.create_default_context(cafile=value)
        else:
            Path(value).open("rb").close()
    except OSError as error:  # ssl.SSLError is one too
        raise InvalidError(f"{name} {value!r} cannot be used: {error}: name a PEM file") from None
