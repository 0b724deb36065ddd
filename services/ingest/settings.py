"""Ingest's settings."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from services.ingest.tokens import read_tokens
from shared.errors import InvalidError
from shared.settings import Port, Settings

_MIB = 1024 * 1024


def _named(value: object) -> object:
    # An empty name would be the current directory; taken for "not set", it would let everybody in.
    if value == "":
        raise ValueError("is empty: name the file, or leave the variable away")
    return value


def _sound_tokens(path: Path) -> Path:
    try:
        read_tokens(path)
    except InvalidError as error:
        raise ValueError(str(error)) from None
    return path


def is_loopback(host: str) -> bool:
    """True where only this machine can reach what listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class IngestSettings(Settings):
    """`backlog_limit`: entries on the views streams from which on views are refused.

    `body_limit_bytes` bounds one body, `reading_limit_bytes` all but one that are being read,
    `pending_limit_bytes` all that wait for Redis. `deadline_s`: how long a request
    for views may wait for Redis. `key_life_s`: how long an Idempotency-Key or the id of a CloudEvent is known.
    Without `tokens_file` everybody who reaches ingest may do everything: then it listens on the loopback only, unless
    `allow_anonymous`.
    """

    metrics_port: Port = 9100
    tokens_file: Annotated[Path, BeforeValidator(_named), AfterValidator(_sound_tokens)] | None = None
    allow_anonymous: bool = False
    http_host: str = "127.0.0.1"
    http_port: Port = 8080
    backlog_limit: int = Field(default=100_000, ge=1)
    body_limit_bytes: int = Field(default=8 * _MIB, ge=1024, le=256 * _MIB)
    reading_limit_bytes: int = Field(default=16 * _MIB, ge=1024)
    pending_limit_bytes: int = Field(default=64 * _MIB, ge=1024)
    deadline_s: float = Field(default=5, ge=0.1, le=60)
    key_life_s: int = Field(default=24 * 3600, ge=60, le=30 * 24 * 3600)

    @field_validator("http_host")
    @classmethod
    def _is_guarded(cls, host: str, earlier: ValidationInfo) -> str:
        # A tokens file that is wrong is not among the fields that were read; its own error is enough.
        if "tokens_file" not in earlier.data or earlier.data["tokens_file"] or earlier.data.get("allow_anonymous"):
            return host
        if not is_loopback(host):
            raise ValueError(
                f"{host!r} can be reached from outside and there are no tokens: set RESHELVE_TOKENS_FILE, "
                "or keep to 127.0.0.1, or set RESHELVE_ALLOW_ANONYMOUS=1 to let everybody do everything"
            )
        return host
