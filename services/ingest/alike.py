"""Bodies whose lines are alike but for the cid and the number of views, as one producer writes them. Pure.

They are read without a step of the interpreter per view. From one body to the next only the text around cids is
remembered: a content that nobody asked for lately costs what any other does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import orjson

from services.ingest.payloads import ITEMS_MAX, VIEWS_MAX
from services.ingest.sums import Increments
from shared.names import are_cids, is_cid

_LONGEST = 256
"""Characters; a longer line carries more than a view, and is hardly like the next."""
_OTHER_CID, _OTHER_VIEWS = "another-cid.to:put_there", 987_654_321
_CID, _NUMBER = r"([A-Za-z0-9._:-]{1,64})", r"([1-9][0-9]{0,8})"
"""As they are found in lines that are alike. A number that is written otherwise is left to the parsers."""
_VIEWS = re.compile(rf'"views"[ \t]*:[ \t]*{_NUMBER}')

_Span = tuple[int, int]


def one_view(body: bytes) -> Increments | None:
    """The whole body where it is one sound increment, as of a producer that sends each alone; else None."""
    view = _increment(body) if body[:1] == b"{" else None
    return Increments(view[:1], view[1:]) if view else None


def lines_alike(body: bytes) -> Increments | None:
    """The lines of a body where all are sound increments and alike; None where that is not certain.

    Alike: the text around the cid is the same in all of them, and around the number, where there is one. With another
    cid put in its place, the first line is still JSON, and that is its cid: so it stands alone between two quotes.
    Whatever else stands there and has no character but those of cids is then the cid, and changes nothing else.
    """
    text = body[:-1] if body[-1:] == b"\n" else body
    first, newline, _ = text.partition(b"\n")
    if not newline:
        return one_view(text)
    if len(first) > _LONGEST:
        return None
    # A short text has not so many lines; to count them would take a tenth of what reading them takes.
    if len(text) >= ITEMS_MAX and text.count(b"\n") >= ITEMS_MAX:
        return None
    try:
        shape = _shape(first.decode())
        return shape.read(text.decode()) if shape else None
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True, slots=True)
class _Same:
    """Lines of `before`, a cid and `after`: one view each."""

    before: str
    after: str

    def read(self, text: str) -> Increments | None:
        cids = text.split(f"{self.after}\n{self.before}")
        if not cids[0].startswith(self.before) or not cids[-1].endswith(self.after):
            return None
        cids[0] = cids[0].removeprefix(self.before)
        cids[-1] = cids[-1].removesuffix(self.after)
        return Increments(cids) if are_cids(cids) else None


@dataclass(frozen=True, slots=True)
class _Numbered:
    """Lines that match a pattern, which finds the cid and the number of views in them."""

    pattern: re.Pattern[str]
    cid_first: bool

    def read(self, text: str) -> Increments | None:
        found = self.pattern.findall(text)
        if len(found) != text.count("\n") + 1:
            return None
        one, other = zip(*found, strict=True)
        cids, views = (one, other) if self.cid_first else (other, one)
        return Increments(cids, list(map(int, views)))


def _shape(line: str) -> _Same | _Numbered | None:
    """What a line that is one sound increment has in common with those that are like it; else None."""
    view = _increment(line)
    if view is None or view[0] == _OTHER_CID or view[1] == _OTHER_VIEWS:
        return None
    number = _VIEWS.search(line)
    for cid in _quoted(view[0], line):
        shape = _numbered(line, cid, number.span(1)) if number else _same(line, cid)
        if shape:
            return shape
    return None


def _quoted(text: str, line: str) -> Iterator[_Span]:
    """Wherever the text stands between quotes."""
    at = line.find(f'"{text}"')
    while at >= 0:
        yield at + 1, at + 1 + len(text)
        at = line.find(f'"{text}"', at + 1)


def _same(line: str, cid: _Span) -> _Same | None:
    return _around(line[: cid[0]], line[cid[1] :])


@lru_cache(maxsize=64)
def _around(before: str, after: str) -> _Same | None:
    return _Same(before, after) if _increment(before + _OTHER_CID + after) == (_OTHER_CID, 1) else None


def _numbered(line: str, cid: _Span, number: _Span) -> _Numbered | None:
    (_, start), (end, _) = sorted([cid, number])
    before, between, after = line[: min(cid[0], number[0])], line[start:end], line[max(cid[1], number[1]) :]
    others, groups = (_OTHER_CID, str(_OTHER_VIEWS)), (_CID, _NUMBER)
    if number < cid:
        others, groups = others[::-1], groups[::-1]
    if _increment(before + others[0] + between + others[1] + after) != (_OTHER_CID, _OTHER_VIEWS):
        return None
    return _Numbered(_compiled(before, groups[0], between, groups[1], after), cid < number)


@lru_cache(maxsize=64)
def _compiled(before: str, first: str, between: str, second: str, after: str) -> re.Pattern[str]:
    """Of whole lines."""
    literal = re.escape
    return re.compile(f"^{literal(before)}{first}{literal(between)}{second}{literal(after)}$", re.MULTILINE)


def _increment(text: bytes | str) -> tuple[str, int] | None:
    """The cid and the number of views that a JSON object reports; None unless it is a sound increment."""
    try:
        item = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if type(item) is not dict or "count" in item:
        return None
    cid, views = item.get("cid"), item.get("views", 1)
    if type(cid) is str and is_cid(cid) and type(views) is int and 1 <= views <= VIEWS_MAX:
        return cid, views
    return None
