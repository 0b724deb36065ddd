"""The mover's settings."""

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from shared.settings import Port, Settings


def _split(value: object) -> object:
    return tuple(part for part in value.split(":") if part) if isinstance(value, str) else value


class MoverSettings(Settings):
    """`mover_concurrency`: files at work at once; `mover_roots`: directories, separated by colons, that it may touch.

    Without `mover_roots` it may touch the paths in the level table.
    """

    metrics_port: Port = 9102
    mover_concurrency: int = Field(default=8, ge=1, le=256)
    mover_roots: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
