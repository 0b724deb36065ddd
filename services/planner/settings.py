"""The planner's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from shared.settings import Port, Settings


@dataclass(frozen=True, kw_only=True)
class PlannerSettings(Settings):
    """`tally_limit`: views entries taken at a time, fewer where they are large.

    `review_limit`: contents of a partition reviewed at a time.
    """

    metrics_port: Port = 9101
    tally_limit: Annotated[int, Meta(ge=1, le=10_000)] = 2048
    review_limit: Annotated[int, Meta(ge=1, le=2_000)] = 256
