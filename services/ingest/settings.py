"""Ingest's settings."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from services.ingest.tokens import read_tokens
from shared.errors import InvalidError, StopServiceError
from shared.settings import PREFIX, Port, Settings, yes_or_no

_MIB = 1024 * 1024


def _sound_tokens(name: str) -> Path:
    # An empty name would be the current directory; taken for "not set", it would let everybody in.
    if not name:
        raise InvalidError("is empty: name the file, or leave the variable away")
    path = Path(name)
    read_tokens(path)
    return path


def is_loopback(host: str) -> bool:
    """True where only this machine can reach what listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, kw_only=True)
class IngestSettings(Settings):
    """`backlog_limit`: entries on the views streams from which on views are refused.

    `body_limit_bytes` bounds one body, `reading_limit_bytes` all but one that are being read,
    `pending_limit_bytes` all that wait for Redis. `deadline_s`: how long a request
    for views may wait for Redis. `key_life_s`: how long an Idempotency-Key or the id of a CloudEvent is known.
    Ingest processes of one host that all `http_share_port` listen on the same port; the kernel spreads connections.
    Without `tokens_file` everybody who reaches ingest may do everything: then it listens on the loopback only, unless
    `allow_anonymous`.
    """

    metrics_port: Port = 9100
    tokens_file: Annotated[Path | None, _sound_tokens] = None
    allow_anonymous: Annotated[bool, yes_or_no] = False
    http_host: str = "127.0.0.1"
    http_port: Port = 8080
    http_share_port: Annotated[bool, yes_or_no] = False
    backlog_limit: Annotated[int, Meta(ge=1)] = 100_000
    body_limit_bytes: Annotated[int, Meta(ge=1024, le=256 * _MIB)] = 8 * _MIB
    reading_limit_bytes: Annotated[int, Meta(ge=1024)] = 16 * _MIB
    pending_limit_bytes: Annotated[int, Meta(ge=1024)] = 64 * _MIB
    deadline_s: Annotated[float, Meta(ge=0.1, le=60)] = 5
    key_life_s: Annotated[int, Meta(ge=60, le=30 * 24 * 3600)] = 24 * 3600

    def check(self) -> None:
        """Raises StopServiceError where whoever reaches ingest could do everything, and others than we reach it."""
        if not (self.tokens_file or self.allow_anonymous or is_loopback(self.http_host)):
            raise StopServiceError(
                f"{PREFIX}HTTP_HOST: {self.http_host!r} can be reached from outside and there are no tokens: set "
                f"{PREFIX}TOKENS_FILE, or keep to 127.0.0.1, or set {PREFIX}ALLOW_ANONYMOUS=1 to let "
                "everybody do everything"
            )
