"""What a body of views amounts to: from bytes to sums per partition. Pure.

Members that are not named here are ignored: producers may send their whole event.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import orjson

from services.ingest.checksums import Checksums
from services.ingest.sums import Increments
from shared.errors import InvalidError
from shared.keys import partition_of
from shared.levels import COUNT_MAX
from shared.messages import Tally
from shared.names import check_cid

VIEWS_MAX = 1_000_000_000
"""The largest increment that one report may carry."""
ITEMS_MAX = 100_000
"""How many views one body may hold: what is parsed in a few tens of milliseconds."""
LISTED_MAX = 100
"""How many rejections an answer lists."""

_PIECE_BYTES = 256 * 1024
JSON_SPACE = b" \t\r\n"

_cid_of = itemgetter("cid")
_checksums = Checksums()

Format = Literal["json", "ndjson", "cloudevent", "cloudevents"]
FORMATS: dict[str, Format] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/cloudevents+json": "cloudevent",
    "application/cloudevents-batch+json": "cloudevents",
}


class UnsupportedError(InvalidError):
    """A content type or charset that is not understood."""


class TooManyError(InvalidError):
    """More than ITEMS_MAX views in one body."""


@dataclass(frozen=True, slots=True)
class Event:
    """The view of one CloudEvent, taken in once for its `marker`."""

    partition: int
    marker: str
    packed: bytes


@dataclass(slots=True)
class Intake:
    """What a body amounts to: sums per partition, and events that are deduplicated one by one."""

    accepted_views: int = 0
    accepted_counts: int = 0
    tallies: dict[int, Tally] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    increments: Increments | None = None
    """Instead of tallies: views that are still to be summed, with those of other requests."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """`{"index", "error"}` of the first LISTED_MAX rejected items; the index counts items, so blank lines do not."""
    rejected_total: int = 0

    @property
    def accepted(self) -> int:
        return self.accepted_views + self.accepted_counts

    def add(self, later: Intake) -> None:
        """Take in what came after and has no rejections."""
        self.accepted_views += later.accepted_views
        self.accepted_counts += later.accepted_counts
        for partition, tally in later.tallies.items():
            self.tally(partition).merge(tally)

    def reject(self, index: int, error: str) -> None:
        self.rejected_total += 1
        if self.rejected_total <= LISTED_MAX:
            self.rejected.append({"index": index, "error": error})

    def tally(self, partition: int) -> Tally:
        tally = self.tallies.get(partition)
        if tally is None:
            tally = self.tallies[partition] = Tally.empty()
        return tally


@lru_cache(maxsize=256)
def format_of(content_type: str) -> Format:
    """The format that a Content-Type header names. Raises UnsupportedError."""
    media_type = check_utf8(content_type)
    found = FORMATS.get(media_type)
    if found is None:
        raise UnsupportedError(f"Content-Type {media_type[:80]!r} is not understood: send {', '.join(FORMATS)}")
    return found


def check_utf8(content_type: str) -> str:
    """The media type of a Content-Type header, in lower case. Raises UnsupportedError for another charset."""
    media_type, *parameters = content_type.split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in {"utf-8", "utf8", "us-ascii"}:
            raise UnsupportedError(f"charset {charset[:40]!r} is not understood: send UTF-8")
    return media_type.strip().lower()


def parse_json(body: bytes, partitions: int) -> Intake:
    """One view or an array of them. Raises InvalidError where the body is neither."""
    value = load(body)
    if isinstance(value, dict):
        return fold([value], partitions)
    if isinstance(value, list):
        return fold(limited(value), partitions)
    raise InvalidError("body must be an object with a cid, or an array of such objects")


def parse_ndjson(body: bytes, partitions: int) -> Intake:
    """One view per line. Lines that are no JSON are rejected one by one."""
    if body.count(b"\n") > ITEMS_MAX:
        return fold_lines(body, partitions)
    whole = Intake()
    for piece in _pieces(body):
        items = _one_array(piece.strip(JSON_SPACE))
        if items is None:
            return fold_lines(body, partitions)
        intake = fold(items, partitions)
        if len(piece) == len(body):
            return intake
        if intake.rejected_total:
            # Its indexes are those of a piece.
            return fold_lines(body, partitions)
        whole.add(intake)
    return whole


def _pieces(body: bytes) -> Iterator[bytes]:
    """The body in whole lines: all that is parsed at the same moment takes ten times its size in memory."""
    begin = 0
    while begin < len(body):
        end = body.find(b"\n", begin + _PIECE_BYTES) + 1 or len(body)
        yield body[begin:end]
        begin = end


def _one_array(text: bytes) -> list[Any] | None:
    """The lines' values, parsed at one go as an array; None where that might read them otherwise than line by line.

    Lines joined by commas can pass for other items than each line alone: `{"a":1` and `"b":2}` are one object together.
    Where every line begins with a brace and there is no further brace anywhere (so none in a text, and no object
    within another), and the array has as many items as there are lines, and all are objects, each brace begins one
    item: then an item begins with its line, and nothing but the one comma that we put there can separate it from the
    next.
    """
    if text[:1] != b"{":
        return None
    # One pass joins and counts: each line that begins with a brace makes the text a byte longer.
    joined = text.replace(b"\n{", b", {")
    lines = len(joined) - len(text) + 1
    if lines > ITEMS_MAX or b"\n" in joined or joined.count(b"{") != lines:
        return None
    try:
        items: list[Any] = orjson.loads(b"[%b]" % joined)
    except orjson.JSONDecodeError:
        return None
    return items if len(items) == lines and set(map(type, items)) == {dict} else None


def fold_lines(body: bytes, partitions: int) -> Intake:
    """The slow path of `parse_ndjson`: line by line. Raises TooManyError."""
    lines = limited([line for line in body.split(b"\n") if line.strip(JSON_SPACE)])
    intake = Intake()
    for index, line in enumerate(lines):
        try:
            fold_item(orjson.loads(line), partitions, intake)
        except orjson.JSONDecodeError as error:
            intake.reject(index, f"line is not JSON: {error.msg}")
        except InvalidError as error:
            intake.reject(index, str(error))
    return intake


def load(body: bytes) -> Any:
    """The body as JSON. Raises InvalidError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidError(f"body is not JSON: {error}") from None


def limited(items: list[Any]) -> list[Any]:
    """The items themselves. Raises TooManyError."""
    if len(items) > ITEMS_MAX:
        raise TooManyError(f"body holds {len(items)} views; at most {ITEMS_MAX} are allowed: split it")
    return items


def fold(items: Sequence[Any], partitions: int) -> Intake:
    """The sums of the items; what breaks a rule is rejected by its index."""
    # For one item, which is the most frequent body of all, the slow path is the faster one.
    intake = _fold_sound(items, partitions) if len(items) > 1 else None
    if intake is None:
        intake = Intake()
        for index, item in enumerate(items):
            try:
                fold_item(item, partitions, intake)
            except InvalidError as error:
                intake.reject(index, str(error))
    return intake


def _fold_sound(items: Sequence[Any], partitions: int) -> Intake | None:
    """The sums where every item is sound, else None. The hot path."""
    try:
        added = _increments(items)
        if added is not None:
            intake = Intake(len(items))
            totals: Mapping[str, int] = {}
        else:
            added, totals, counts = _mixed(items)
            intake = Intake(len(items) - counts, counts)
        for partition, part in _by_partition(added, partitions).items():
            intake.tally(partition).add = part
        for partition, part in _by_partition(totals, partitions).items():
            intake.tally(partition).set = {cid: min(n, COUNT_MAX) for cid, n in part.items()}
    except (AttributeError, KeyError, TypeError, InvalidError):
        # Not an object, no cid, a cid that is no text or unsound: the slow path says which.
        return None
    return intake


def _increments(items: Sequence[Any]) -> Mapping[str, int] | None:
    """The sums where every item is an increment and sound but for its cid, else None. Raises as `_mixed`."""
    if max(map(len, items)) == 1:
        # Nothing but a cid in any of them: counted without a step of the interpreter per view.
        return Counter(map(_cid_of, items))
    added: dict[str, int] = {}
    for item in items:
        n = item.get("views", 1)
        if type(n) is not int or n < 1 or n > VIEWS_MAX or "count" in item:
            return None
        cid = item["cid"]
        added[cid] = added.get(cid, 0) + n
    return added


def _mixed(items: Sequence[Any]) -> tuple[dict[str, int], dict[str, int], int]:
    """The sums of increments, the totals, and how many items are totals; cids are not looked at.

    Raises InvalidError, AttributeError, KeyError or TypeError where an item is not sound.
    """
    added: dict[str, int] = {}
    totals: dict[str, int] = {}
    counts = 0
    for item in items:
        cid = item["cid"]
        if "count" in item:
            n = item["count"]
            if type(n) is not int or n < 0 or n > COUNT_MAX or "views" in item:
                raise InvalidError("a total is not sound")
            counts += 1
            added.pop(cid, None)
            totals[cid] = n
        else:
            n = item.get("views", 1)
            if type(n) is not int or n < 1 or n > VIEWS_MAX:
                raise InvalidError("an increment is not sound")
            into = totals if cid in totals else added
            into[cid] = into.get(cid, 0) + n
    return added, totals, counts


def _by_partition(sums: Mapping[str, int], partitions: int) -> Mapping[int, dict[str, int]]:
    """The sums of each partition, as `partition_of` has it. Raises InvalidError or TypeError where one is no cid's."""
    parts: dict[int, dict[str, int]] = defaultdict(dict)
    checksums = _checksums.of(sums)
    for cid, n in sums.items():
        parts[checksums[cid] % partitions][cid] = n
    return parts


def fold_item(item: object, partitions: int, intake: Intake) -> None:
    """Count one item. Raises InvalidError, with nothing counted."""
    cid, kind, n = check_item(item)
    tally = intake.tally(partition_of(cid, partitions))
    if kind == "count":
        tally.total(cid, n)
        intake.accepted_counts += 1
    else:
        tally.views(cid, n)
        intake.accepted_views += 1


def check_item(item: object) -> tuple[str, Literal["views", "count"], int]:
    """The cid, what is reported of it, and how much. Raises InvalidError."""
    if not isinstance(item, dict):
        raise InvalidError('a view must be an object: {"cid": "7", "views": 3}')
    if "cid" not in item:
        raise InvalidError("cid is missing")
    cid = check_cid(item["cid"])
    if "count" not in item:
        return cid, "views", check_integer("views", item.get("views", 1), 1, VIEWS_MAX)
    if "views" in item:
        raise InvalidError("both views and count are given: send the increment or the total")
    return cid, "count", check_integer("count", item["count"], 0, COUNT_MAX)


def check_integer(name: str, value: object, least: int, most: int) -> int:
    """The value as an int: 3.0 and 3e0 are 3 for JSON (a bool is not). Raises InvalidError that names the range."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        shown = repr(value) if isinstance(value, int | float | str | None) else f"a JSON {type(value).__name__}"
        raise InvalidError(f"{name} must be an integer from {least} to {most}, got {shown[:40]}")
    return value
