"""The recorder's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from shared.settings import Port, Settings


@dataclass(frozen=True, kw_only=True)
class RecorderSettings(Settings):
    """`retire_grace_s`: how long the source stays after the commit; `batch_limit` relocations per transaction."""

    metrics_port: Port = 9103
    retire_grace_s: Annotated[float, Meta(ge=0, le=30 * 24 * 3600)] = 0
    batch_limit: Annotated[int, Meta(ge=1, le=5000)] = 500
