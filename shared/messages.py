"""The messages on the streams: what they hold and how they are written down. Pure.

An entry about one content has fields for what scripts and operators look for, and one for all else; `views` packs many
views into one field.
Times are integer milliseconds since the epoch; sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, itemgetter
from typing import Any, ClassVar, Literal, Self, get_args

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
    """Encoding shared by the messages about one content; each field is a str or an int, `seconds` a float.

    `move_id` and `cid` are fields of the entry, and so are those in `BESIDE`; the others are one JSON object, `body`.
    Forty values in an entry cost Redis and its clients three times as much as these six.
    """

    __slots__ = ()
    BESIDE: ClassVar[tuple[str, ...]] = ()
    """Numbers, the last of the message's fields."""

    def wire(self) -> list[str]:
        """Flat field/value pairs, as XADD takes them."""
        layout = _layout(type(self))
        move_id, cid, *values = layout.values(self)
        body = orjson.dumps(dict(zip(layout.names, values, strict=False))).decode()
        flat = ["move_id", move_id, "cid", cid, "body", body]
        for name in self.BESIDE:
            flat += (name, str(getattr(self, name)))
        return flat

    @classmethod
    def parse(cls, entry: Mapping[bytes, bytes]) -> Self:
        """Raises InvalidError that names the field which is missing or malformed."""
        try:
            move_id, cid, body = _text("move_id", entry[b"move_id"]), entry[b"cid"], entry[b"body"]
            beside = [_digits(name, entry[name.encode()]) for name in cls.BESIDE]
        except KeyError as error:
            raise InvalidError(f"field {error.args[0].decode()!r} is missing") from None
        text = _text("cid", cid)
        if not is_cid(text):
            raise InvalidError(f"field 'cid' is not a cid: {text[:80]!r}")
        return cls(move_id, text, *_layout(cls).unpack(body), *beside)  # type: ignore[call-arg]  # all begin with these


@dataclass(slots=True)
class _Layout:
    """How a kind of message is written, worked out once: it is done some six times for each relocation.

    `values` takes all values off a message; all else is about the body. `of_body` takes the values out of it, of which
    the n-th has `names[n]`, `types[n]` and `readers[n]`; `numbers` takes the integers out of them, `odd` tells which
    are neither integers nor any text.
    """

    values: Callable[[Any], tuple[Any, ...]]
    names: Sequence[str]
    types: tuple[type, ...]
    readers: Sequence[Callable[[str, Any], str | int | float]]
    of_body: Callable[[dict[str, Any]], tuple[Any, ...]]
    numbers: Callable[[tuple[Any, ...]], tuple[int, ...]]
    odd: Sequence[int]

    def unpack(self, packed: bytes) -> Sequence[str | int | float]:
        """The body's values. Raises InvalidError."""
        try:
            values = self.of_body(orjson.loads(packed))
        except orjson.JSONDecodeError:
            raise InvalidError(f"field 'body' is not JSON: {packed[:40]!r}") from None
        except KeyError as error:
            raise InvalidError(f"field {error.args[0]!r} is missing") from None
        except (TypeError, IndexError):
            raise InvalidError(f"field 'body' is not a JSON object: {packed[:40]!r}") from None
        if len(packed) <= _TEXT_MAX_BYTES and tuple(map(type, values)) == self.types:
            # All at once, and only where something is wrong one by one, for its name.
            numbers = self.numbers(values)
            if min(numbers) >= 0 and max(numbers) <= COUNT_MAX:
                for number in self.odd:
                    self.readers[number](self.names[number], values[number])
                return values
        return [read(name, value) for read, name, value in zip(self.readers, self.names, values, strict=True)]


def _layout(message: type[_Message]) -> _Layout:
    layout = _LAYOUTS.get(message)
    if layout is None:
        kinds = {field.name: str(field.type) for field in fields(message)}  # type: ignore[arg-type]  # all dataclasses
        values = attrgetter(*kinds)
        for name in ("move_id", "cid", *message.BESIDE):
            del kinds[name]
        names = [_WIRE_NAMES.get(attribute, attribute) for attribute in kinds]
        numbered = list(enumerate(kinds.values()))
        layout = _LAYOUTS[message] = _Layout(
            values,
            names,
            types=tuple(_TYPES[kind] for kind in kinds.values()),
            readers=[_READERS[kind] for kind in kinds.values()],
            of_body=itemgetter(*names),
            numbers=itemgetter(*(number for number, kind in numbered if kind == "int")),
            odd=[number for number, kind in numbered if kind not in {"str", "int"}],
        )
    return layout


def _text(name: str, raw: bytes) -> str:
    if len(raw) > _TEXT_MAX_BYTES:
        raise InvalidError(f"field {name!r} has {len(raw)} bytes; at most {_TEXT_MAX_BYTES} are allowed")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidError(f"field {name!r} is not text: {raw[:40]!r}") from None


def _digits(name: str, raw: bytes) -> int:
    # Stricter than int(): "-1", "1_0" and numbers that neither Lua nor MySQL can hold are not ours.
    return _number(name, int(raw) if raw.isdigit() and len(raw) <= _DIGITS else raw)


def _number(name: str, value: object) -> int:
    if type(value) is int and 0 <= value <= COUNT_MAX:
        return value
    raise InvalidError(f"field {name!r} is not a number from 0 to {COUNT_MAX}: {_shown(value)}")


def _seconds(name: str, value: object) -> float:
    if type(value) in {int, float} and 0 <= value < math.inf:  # type: ignore[operator]  # that is what the first half asks
        return float(value)  # type: ignore[arg-type]
    raise InvalidError(f"field {name!r} is not a number of seconds: {_shown(value)}")


def _string(name: str, value: object) -> str:
    if type(value) is not str:
        raise InvalidError(f"field {name!r} is not text: {_shown(value)}")
    size = len(value.encode())
    if size > _TEXT_MAX_BYTES:
        raise InvalidError(f"field {name!r} has {size} bytes; at most {_TEXT_MAX_BYTES} are allowed")
    return value


def _method(name: str, value: object) -> str:
    if value not in METHODS:
        raise InvalidError(f"field {name!r} is not one of {', '.join(METHODS)}: {_shown(value)}")
    return str(value)


def _shown(value: object) -> str:
    # Of a text of megabytes only what will be seen.
    return repr(value[:40] if isinstance(value, str | bytes) else value)[:60]


_DIGITS = len(str(COUNT_MAX))
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "Method": str}
_READERS: dict[str, Callable[[str, Any], str | int | float]] = {
    "str": _string,
    "int": _number,
    "float": _seconds,
    "Method": _method,
}

# Not frozen: then a field is set by a call of its own, which took a tenth of the recorder's time.


@dataclass(slots=True)
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


@dataclass(slots=True)
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


@dataclass(slots=True)
class Retire(Placed):
    """The order to remove the source copy, not before `not_before`."""

    BESIDE: ClassVar[tuple[str, ...]] = ("not_before",)

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
