"""Is a content on the level its count asks for? Pure: facts in, a decision out."""

from __future__ import annotations

from dataclasses import dataclass

from shared.levels import Band, Level, Levels


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a content at its review; `level` is None where the catalog does not track it."""

    cid: str
    level: Level | None
    count: int


@dataclass(frozen=True, slots=True)
class Open:
    """Relocate it."""

    source: Level
    target: Level
    why: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Leave it, unseen while its count stays within `band`; `again_ms` is when to look again anyway, if ever."""

    level: Level
    band: Band
    why: str
    again_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is nothing to decide about: the catalog does not track it."""

    why: str


Decision = Open | Rest | Unknown


def decide(facts: Facts, levels: Levels, now_ms: int) -> Decision:  # noqa: ARG001  # time-dependent policies need it
    """The decision on one content, given the level table and the time."""
    level = facts.level
    if level is None:
        return Unknown(f"content {facts.cid} is not in the catalog")
    target = levels.level_for(facts.count)
    if target == level:
        return Rest(level, levels.band(level), f"count {facts.count} belongs on {_range(level, levels)}")
    return Open(level, target, f"count {facts.count} belongs on {_range(target, levels)}, not {_range(level, levels)}")


def _range(level: Level, levels: Levels) -> str:
    band = levels.band(level)
    upper = f"-{level.max_counts}" if band.hi == level.max_counts + 1 else " and more"
    return f"{level.content_level} ({level.min_counts}{upper})"
