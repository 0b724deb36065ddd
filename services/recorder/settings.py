"""The recorder's settings."""

from pydantic import Field

from shared.settings import Port, Settings


class RecorderSettings(Settings):
    """`retire_grace_s`: how long the source stays after the commit; `batch_limit` relocations per transaction."""

    metrics_port: Port = 9103
    retire_grace_s: float = Field(default=0, ge=0, le=30 * 24 * 3600)
    batch_limit: int = Field(default=500, ge=1, le=5000)
