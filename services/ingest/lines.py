"""Views that are told by a line which came before: most views are of few contents, and so are most lines. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import filterfalse

import orjson

from services.ingest.checksums import work_out
from services.ingest.payloads import VIEWS_MAX
from shared.errors import InvalidError
from shared.levels import COUNT_MAX
from shared.messages import Tally

_KNOWN_MAX = 131_072
"""Some 40 MB where lines are short."""
_LONGEST_BYTES = 256
"""Longer lines carry more than a view, and rarely come twice."""
_WORTH = 0.25
"""The share of lines that must have been known; with fewer, learning them costs more than it saves."""
_PAUSE = 16
"""For how many times half of `_KNOWN_MAX` lines nothing is learned then."""

View = tuple[str, int, int]
"""cid, its checksum, views"""


class Lines:
    """Remembers lines that were seen lately and are one sound increment each; all others are left to the parsers.

    Then a body is split, looked up and counted without a step of the interpreter per view. Threads may ask at the same
    time: nothing is taken from what was handed out.
    """

    def __init__(self, partitions: int, limit: int = _KNOWN_MAX) -> None:
        """Knows at most `limit` lines: what was not asked for among the last half of them is forgotten."""
        self._partitions = partitions
        self._limit = limit // 2
        self._known: dict[bytes, View] = {}
        self._before: dict[bytes, View] = {}
        self._asked = 0
        self._learned = 0
        self._paused = 0

    def of(self, body: bytes) -> list[bytes]:
        """The lines of a body, each of them one sound increment; none where that is not certain."""
        if self._paused > 0:
            self._paused -= body.count(b"\n") + 1
            return []
        lines = body.split(b"\n")
        if not lines[-1]:
            lines.pop()
        if not lines or len(lines) > self._limit or self._with(lines) is None:
            return []
        self._asked += len(lines)
        return lines

    def one(self, body: bytes) -> list[bytes]:
        """The whole body where it is one sound increment, as of a producer that sends each alone; else nothing."""
        if self._paused > 0:
            self._paused -= 1
            return []
        if len(body) > _LONGEST_BYTES or (body not in self._known and self._with([body]) is None):
            return []
        self._asked += 1
        return [body]

    def sums(self, counted: Mapping[bytes, int]) -> dict[int, Tally]:
        """What lines that came so many times amount to, per partition. They must have been certain before."""
        known = self._with(counted)
        if known is None:
            raise InvalidError("a line is not sound that was so before")
        parts: dict[int, dict[str, int]] = defaultdict(dict)
        partitions = self._partitions
        for line, times in counted.items():
            cid, checksum, views = known[line]
            part = parts[checksum % partitions]
            part[cid] = part.get(cid, 0) + views * times
        return {partition: Tally(_capped(part), {}) for partition, part in parts.items()}

    def _with(self, lines: Collection[bytes]) -> Mapping[bytes, View] | None:
        """What is known, with all of these lines; None where one of them is not a sound increment."""
        known = self._known
        new = set(filterfalse(known.__contains__, lines))
        if not new:
            return known
        if len(known) + len(new) > self._limit:
            self._turn_over()
            new = set(lines)
            known = self._known if len(new) <= self._limit else {}
        before = self._before
        again = {line: before[line] for line in new if line in before}
        unknown = new.difference(again)
        views = _read(unknown) if unknown else ()
        if views is None:
            return None
        known.update(again)
        known.update(views)
        self._learned += len(unknown)
        return known

    def _turn_over(self) -> None:
        if self._asked * (1 - _WORTH) < self._learned:
            self._paused = _PAUSE * self._limit
        self._known, self._before = {}, self._known
        self._asked = self._learned = 0


def _capped(part: dict[str, int]) -> dict[str, int]:
    if max(part.values()) <= COUNT_MAX:
        return part
    return {cid: min(views, COUNT_MAX) for cid, views in part.items()}


def _read(lines: Collection[bytes]) -> Iterable[tuple[bytes, View]] | None:
    """Each line with its view; None unless each is one object, an increment and sound.

    They are parsed at one go, as an array. Every line begins with a brace and there is no further brace anywhere; so
    where the array has as many items as there are lines, and all are objects, each brace begins an item, and an item
    is what its line is alone: nothing but the one comma that we put there can separate it from the next.
    """
    text = b"\n".join(lines)
    braces = len(lines)
    if text[:1] != b"{" or text.count(b"\n{") != braces - 1 or text.count(b"{") != braces:
        return None
    if max(map(len, lines)) > _LONGEST_BYTES:
        return None
    try:
        items = orjson.loads(b"[%b]" % b",".join(lines))
    except orjson.JSONDecodeError:
        return None
    if len(items) != len(lines) or set(map(type, items)) != {dict}:
        return None
    return _views(lines, items)


def _views(lines: Collection[bytes], items: Sequence[dict[str, object]]) -> Iterable[tuple[bytes, View]] | None:
    numbers: list[int] = []
    cids: list[str] = []
    for item in items:
        n, cid = item.get("views", 1), item.get("cid")
        if type(n) is not int or n < 1 or n > VIEWS_MAX or type(cid) is not str or "count" in item:
            return None
        numbers.append(n)
        cids.append(cid)
    try:
        checksums = work_out(cids)
    except InvalidError:
        return None
    return zip(lines, zip(cids, checksums, numbers, strict=True), strict=True)
