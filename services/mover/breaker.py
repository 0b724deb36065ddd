"""A breaker per level: while a level keeps failing, its work waits and the rest goes on. Pure: time is passed in.

A full level must still be emptied, so what goes in and what goes out (or is removed) have a breaker each: a level has
two doors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from shared.messages import Move, Placed, Retire

LIMIT = 3
"""So many failures in a row open a breaker."""
FIRST_S, LONGEST_S = 5.0, 60.0
"""How long it stays open at first; each trial that fails doubles that, up to the longest."""


class Door(NamedTuple):
    """`in`: files are placed there. `out`: files are read or removed there, or looked at."""

    level: str
    way: Literal["in", "out"]


def doors_of(work: Move | Placed) -> tuple[Door, Door]:
    """The source's and the target's. A retire only looks at its target, which may be full by now."""
    return Door(work.from_level, "out"), Door(work.to_level, "out" if isinstance(work, Retire) else "in")


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    failed: set[str] = field(default_factory=set)
    span_s: float = 0.0
    until: float = 0.0
    trial: str = ""
    why: str = ""

    @property
    def closed(self) -> bool:
        return self.span_s == 0


class Breakers:
    """Those of one mover. `who` names the work, `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        """All are closed."""
        self._breakers: dict[Door, _Breaker] = {}

    def wait_s(self, doors: Iterable[Door], who: str, now: float) -> float:
        """0: go on, as the trial where a breaker's time is over. Else how long to wait before asking again."""
        waits = [0.0]
        on_trial = []
        for door in doors:
            breaker = self._breakers.get(door)
            if breaker is None or breaker.closed:
                continue
            if breaker.until > now:
                waits.append(breaker.until - now)
            elif breaker.trial not in {"", who}:
                # Not at once: thousands may wait, and a trial may be a long copy.
                waits.append(max(FIRST_S, breaker.span_s / 4))
            else:
                on_trial.append(breaker)
        if max(waits) == 0:
            for breaker in on_trial:
                breaker.trial = who
        return max(waits)

    def failed(self, door: Door, who: str, now: float, *, whole: bool, why: str = "") -> bool:
        """True when the breaker is open now. `whole`: the failure meets all work at this door, not perhaps one file.

        Where it might be one file's trouble, failures of one and the same work open nothing.
        """
        breaker = self._breakers.setdefault(door, _Breaker())
        if breaker.closed:
            breaker.failures += 1
            breaker.failed.add(who)
            if breaker.failures < LIMIT or not (whole or len(breaker.failed) > 1):
                return False
            breaker.span_s = FIRST_S
        elif breaker.trial == who:
            breaker.span_s = min(breaker.span_s * 2, LONGEST_S)
        else:
            return True  # it began before the breaker opened, and tells nothing new
        breaker.until, breaker.trial, breaker.why = now + breaker.span_s, "", why
        return True

    def succeeded(self, doors: Iterable[Door]) -> None:
        """Work came through these doors: their breakers close."""
        for door in doors:
            self._breakers.pop(door, None)

    def ended(self, doors: Iterable[Door], who: str) -> None:
        """The work ended; where it told nothing about the levels, another may be the trial."""
        for door in doors:
            breaker = self._breakers.get(door)
            if breaker is not None and breaker.trial == who:
                breaker.trial = ""

    def closed(self, doors: Iterable[Door]) -> bool:
        """True where nothing waits, and nothing is on trial."""
        return all((breaker := self._breakers.get(door)) is None or breaker.closed for door in doors)

    def why(self, level: str) -> str:
        """What went wrong last at the level's doors that are not closed."""
        whys = [one.why for door, one in self._breakers.items() if door.level == level and not one.closed]
        return "; ".join(dict.fromkeys(whys))

    def open(self) -> dict[str, float]:
        """Levels whose breaker is open or on trial, with the time of their next trial."""
        found: dict[str, float] = {}
        for door, breaker in self._breakers.items():
            if not breaker.closed:
                found[door.level] = max(found.get(door.level, 0.0), breaker.until)
        return found
