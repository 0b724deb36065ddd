"""Ingest's settings."""

from pydantic import Field

from shared.settings import Port, Settings

_MIB = 1024 * 1024


class IngestSettings(Settings):
    """`backlog_limit`: entries on the views streams from which on views are refused.

    `body_limit_bytes` bounds one body, `pending_limit_bytes` all that wait for Redis. `deadline_s`: how long a request
    for views may wait for Redis. `key_life_s`: how long an Idempotency-Key or the id of a CloudEvent is known.
    """

    metrics_port: Port = 9100
    http_host: str = "127.0.0.1"
    http_port: Port = 8080
    backlog_limit: int = Field(default=100_000, ge=1)
    body_limit_bytes: int = Field(default=8 * _MIB, ge=1024, le=256 * _MIB)
    pending_limit_bytes: int = Field(default=64 * _MIB, ge=1024)
    deadline_s: float = Field(default=5, ge=0.1, le=60)
    key_life_s: int = Field(default=24 * 3600, ge=60, le=30 * 24 * 3600)
