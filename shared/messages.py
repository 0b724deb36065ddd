"""The messages on the streams: what they hold and how they are written down. Pure.

Stream entries are flat field/value pairs, except `views`, which packs many views into one value.
Times are integer milliseconds since the epoch; sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Literal, Self, get_args

import orjson

from shared.errors import InvalidError
from shared.levels import COUNT_MAX
from shared.names import are_cids, is_cid

Method = Literal["link", "reflink", "copy", "adopt"]
METHODS: tuple[Method, ...] = get_args(Method)

_TEXT_MAX_BYTES = 16 * 1024
"""Beyond any path. A text of megabytes would make a statement that MySQL cuts the connection at, again and again."""

# `from` is a Python keyword; the wire has DESIGN's word.
_WIRE_NAMES = {"from_level": "from", "to_level": "to"}
_LAYOUTS: dict[type[_Message], _Layout] = {}


class _Message:
    """Encoding shared by the flat messages; each field is a str or an int, `seconds` a float."""

    __slots__ = ()

    def wire(self) -> list[str]:
        """Flat field/value pairs, as XADD takes them."""
        layout = _layout(type(self))
        flat = list(layout.flat)
        flat[1::2] = map(str, layout.values(self))
        return flat

    @classmethod
    def parse(cls, entry: Mapping[bytes, bytes]) -> Self:
        """Raises InvalidError that names the field which is missing or malformed."""
        layout = _layout(cls)
        try:
            values = [read(name, entry[key]) for key, name, read in layout.fields]
        except KeyError as error:
            raise InvalidError(f"field {error.args[0].decode()!r} is missing") from None
        message = cls(*values)
        cid: str = message.cid  # type: ignore[attr-defined]  # every flat message has one
        if not is_cid(cid):
            raise InvalidError(f"field 'cid' is not a cid: {cid[:80]!r}")
        return message


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a kind of message is written, worked out once: it is done some ten times for each relocation.

    `fields` has for each field its key in an entry, its name, and what reads its value; `values` takes all values off
    a message; `flat` has the names as `wire` gives them, with room for the values.
    """

    fields: list[tuple[bytes, str, Callable[[str, bytes], str | int | float]]]
    values: Callable[[Any], tuple[Any, ...]]
    flat: list[str]


def _layout(message: type[_Message]) -> _Layout:
    layout = _LAYOUTS.get(message)
    if layout is None:
        kinds = {field.name: str(field.type) for field in fields(message)}  # type: ignore[arg-type]  # all dataclasses
        names = [_WIRE_NAMES.get(attribute, attribute) for attribute in kinds]
        readers = [_READERS[kind] for kind in kinds.values()]
        layout = _LAYOUTS[message] = _Layout(
            [(name.encode(), name, read) for name, read in zip(names, readers, strict=True)],
            attrgetter(*kinds),
            [part for name in names for part in (name, "")],
        )
    return layout


def _number(name: str, raw: bytes) -> int:
    # Stricter than int(): "-1", "1_0" and numbers that neither Lua nor MySQL can hold are not ours.
    if raw.isdigit() and len(raw) <= _DIGITS:
        number = int(raw)
        if number <= COUNT_MAX:
            return number
    raise InvalidError(f"field {name!r} is not a number from 0 to {COUNT_MAX}: {raw[:40]!r}")


def _seconds(name: str, raw: bytes) -> float:
    try:
        seconds = float(raw)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidError(f"field {name!r} is not a number of seconds: {raw[:40]!r}")
    return seconds


def _text(name: str, raw: bytes) -> str:
    if len(raw) > _TEXT_MAX_BYTES:
        raise InvalidError(f"field {name!r} has {len(raw)} bytes; at most {_TEXT_MAX_BYTES} are allowed")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidError(f"field {name!r} is not text: {raw[:40]!r}") from None


def _method(name: str, raw: bytes) -> str:
    text = _text(name, raw)
    if text not in METHODS:
        raise InvalidError(f"field {name!r} is not one of {', '.join(METHODS)}: {text[:40]!r}")
    return text


_DIGITS = len(str(COUNT_MAX))
_READERS: dict[str, Callable[[str, bytes], str | int | float]] = {
    "str": _text,
    "int": _number,
    "float": _seconds,
    "Method": _method,
}


@dataclass(frozen=True, slots=True)
class Move(_Message):
    """The command to relocate one content. `viewed_at` is when the latest view behind the decision was accepted."""

    move_id: str
    cid: str
    filename: str
    from_level: str
    to_level: str
    from_path: str
    to_path: str
    count: int
    why: str
    viewed_at: int
    planned_at: int


@dataclass(frozen=True, slots=True)
class Placed(_Message):
    """The mover's word that a complete, verified, durable copy stands on the target level.

    `source_id` and `target_id` are `ino:size:mtime_ns` (see `file_id`); `digest` is the BLAKE3 hex digest of the
    content, empty where no byte was read (a hard link). `seconds` is the time that placing took.
    """

    move_id: str
    cid: str
    filename: str
    from_level: str
    to_level: str
    from_path: str
    to_path: str
    count: int
    why: str
    bytes: int
    digest: str
    method: Method
    seconds: float
    mover: str
    attempts: int
    source_id: str
    target_id: str
    viewed_at: int
    planned_at: int
    placed_at: int


@dataclass(frozen=True, slots=True)
class Retire(Placed):
    """The order to remove the source copy, not before `not_before`."""

    not_before: int

    @classmethod
    def after(cls, placed: Placed, not_before: int) -> Self:
        """The order that follows from a placed copy."""
        return cls(*(*_layout(Placed).values(placed), not_before))


@dataclass(slots=True)
class Tally:
    """What views amount to, per content: increments, and absolute totals with what came after them."""

    add: dict[str, int]
    set: dict[str, int]

    @classmethod
    def empty(cls) -> Self:
        return cls({}, {})

    def __bool__(self) -> bool:
        return bool(self.add or self.set)

    def views(self, cid: str, views: int) -> None:
        """Count an increment. After a total it raises the total, so that the order of both is kept."""
        into = self.set if cid in self.set else self.add
        into[cid] = min(into.get(cid, 0) + views, COUNT_MAX)

    def total(self, cid: str, count: int) -> None:
        """Take over an absolute total; it replaces what came before."""
        self.add.pop(cid, None)
        self.set[cid] = count

    def merge(self, later: Tally) -> None:
        """Take in what came after."""
        for cid, count in later.set.items():
            self.total(cid, count)
        if self.set:
            for cid, views in later.add.items():
                self.views(cid, views)
            return
        # Without totals, as nearly always, a planner spends its time here.
        add, get = self.add, self.add.get
        for cid, views in later.add.items():
            count = get(cid, 0) + views
            add[cid] = count if count < COUNT_MAX else COUNT_MAX  # noqa: FURB136  # min() would be half of the time

    def pack(self) -> bytes:
        """`{"add": {cid: n}, "set": {cid: total}}`, empty parts left out."""
        packed = {name: part for name, part in (("add", self.add), ("set", self.set)) if part}
        return orjson.dumps(packed)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Raises InvalidError for anything that `pack` would not write."""
        try:
            value = orjson.loads(packed)
        except orjson.JSONDecodeError as error:
            raise InvalidError(f"views are not JSON: {error}") from None
        if not isinstance(value, dict) or not value.keys() <= {"add", "set"}:
            raise InvalidError("views are not an object of `add` and `set`")
        tally = cls(value.get("add", {}), value.get("set", {}))
        for part in (tally.add, tally.set):
            if not isinstance(part, dict):
                raise InvalidError("`add` and `set` must be objects of cid and number")
            _check_counts(part)
        both = tally.add.keys() & tally.set.keys()
        if both:
            raise InvalidError(f"{min(both)!r} has both views and a total: their order is unknown")
        return tally


def _check_counts(part: Mapping[Any, Any]) -> None:
    # All at once, and only where something is wrong one by one, for its name.
    if set(map(type, part.values())) <= {int} and are_cids(part):
        counts = part.values()
        if not counts or (min(counts) >= 0 and max(counts) <= COUNT_MAX):
            return
    for cid, n in part.items():
        if type(n) is not int or not 0 <= n <= COUNT_MAX:
            raise InvalidError(f"views of {cid!r} are not a number from 0 to {COUNT_MAX}")
        if not is_cid(cid):
            raise InvalidError(f"{str(cid)[:80]!r} is not a cid")


def unpack_views(entry: Mapping[bytes, bytes]) -> Tally:
    """The sum of one `views` entry: packed tallies in the fields v1, v2, … in their order.

    Raises InvalidError for a foreign field or an entry without views.
    """
    if not entry:
        raise InvalidError("views entry is empty")
    tally = Tally.empty()
    for name, packed in entry.items():
        if name[:1] != b"v" or not name[1:].isdigit():
            raise InvalidError(f"views entry has the foreign field {name[:40]!r}")
        tally.merge(Tally.unpack(packed))
    return tally
