"""The planner's settings."""

from pydantic import Field

from shared.settings import Port, Settings


class PlannerSettings(Settings):
    """`tally_limit`: views entries taken at a time, fewer where they are large.

    `review_limit`: contents of a partition reviewed at a time.
    """

    metrics_port: Port = 9101
    tally_limit: int = Field(default=2048, ge=1, le=10_000)
    review_limit: int = Field(default=256, ge=1, le=2_000)
