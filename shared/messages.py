"""The messages on the streams: what they hold and how they are written down. Pure.

An entry about one content is one JSON object, `body`, beside two fields that scripts and operators look for; `views`
packs many views into one field.
Times are integer milliseconds since the epoch; sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self, get_args

import orjson
from msgspec import DecodeError, Meta, Struct, ValidationError, field
from msgspec.json import Decoder, Encoder
from msgspec.structs import astuple

from shared.errors import InvalidError
from shared.levels import COUNT_MAX
from shared.names import are_cids, is_cid

Method = Literal["link", "reflink", "copy", "adopt"]
METHODS: tuple[Method, ...] = get_args(Method)

Number = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
"""What Lua and MySQL hold exactly."""
Seconds = Annotated[float, Meta(ge=0)]

_BODY_MAX_BYTES = 64 * 1024
"""Beyond any paths. A text of megabytes would make a statement that MySQL cuts the connection at, again and again."""
_DIGITS = len(str(COUNT_MAX))
_MISSING = re.compile(r"missing required field `(\w+)`")
_PLACE = re.compile(r"(.*) - at `\$\.(\w+)`")

_encode = Encoder().encode


class _Message(Struct, gc=False):
    """Encoding shared by the messages about one content.

    Decoding checks every value by its type: msgspec does it in a tenth of the time that it took in Python, and each
    relocation is written and read three times.
    """

    move_id: str
    cid: str

    def wire(self) -> list[str]:
        """Flat field/value pairs, as XADD takes them."""
        return ["move_id", self.move_id, "cid", self.cid, "body", _encode(self).decode()]

    @classmethod
    def parse(cls, entry: Mapping[bytes, bytes]) -> Self:
        """Raises InvalidError that names the field which is missing or malformed."""
        try:
            move_id, cid, body = entry[b"move_id"], entry[b"cid"], entry[b"body"]
        except KeyError as error:
            raise InvalidError(f"field {error.args[0].decode()!r} is missing") from None
        if len(body) > _BODY_MAX_BYTES:
            raise InvalidError(f"field 'body' has {len(body)} bytes; at most {_BODY_MAX_BYTES} are allowed")
        try:
            message: Self = _decoder(cls).decode(body)
        except ValidationError as error:
            raise InvalidError(_fault(str(error))) from None
        except (DecodeError, UnicodeDecodeError):
            raise InvalidError(f"field 'body' is not JSON: {body[:40]!r}") from None
        if not is_cid(message.cid):
            raise InvalidError(f"field 'cid' is not a cid: {message.cid[:80]!r}")
        for name, beside, within in (("move_id", move_id, message.move_id), ("cid", cid, message.cid)):
            if beside != within.encode():
                raise InvalidError(f"field {name!r} is not the body's: {beside[:40]!r}")
        return message


@cache
def _decoder(message: type[Any]) -> Decoder[Any]:
    return Decoder(message)


def _fault(said: str) -> str:
    """In our words, with the field first."""
    missing = _MISSING.search(said)
    if missing:
        return f"field {missing.group(1)!r} is missing"
    placed = _PLACE.match(said)
    if placed:
        return f"field {placed.group(2)!r} is not as it must be: {placed.group(1)[:80]}"
    return f"field 'body' is not as it must be: {said[:80]}"


class Move(_Message, gc=False):
    """The command to relocate one content. `viewed_at` is when the latest view behind the decision was accepted."""

    filename: str
    from_level: str = field(name="from")
    to_level: str = field(name="to")
    from_path: str
    to_path: str
    count: Number
    why: str
    viewed_at: Number
    planned_at: Number


class Placed(_Message, gc=False):
    """The mover's word that a complete, verified, durable copy stands on the target level.

    `source_id` and `target_id` are `ino:size:mtime_ns` (see `file_id`); `digest` is the BLAKE3 hex digest of the
    content, empty where no byte was read (a hard link). `seconds` is the time that placing took.
    """

    filename: str
    from_level: str = field(name="from")
    to_level: str = field(name="to")
    from_path: str
    to_path: str
    count: Number
    why: str
    bytes: Number
    digest: str
    method: Method
    seconds: Seconds
    mover: str
    attempts: Number
    source_id: str
    target_id: str
    viewed_at: Number
    planned_at: Number
    placed_at: Number


class Retire(Placed, gc=False):
    """The order to remove the source copy, not before `not_before`.

    That stands beside the body, which is the placed entry's own: the script passes it on as it is.
    """

    not_before: Number = 0

    def wire(self) -> list[str]:
        *placed, not_before = astuple(self)
        return [*Placed(*placed).wire(), "not_before", str(not_before)]

    @classmethod
    def parse(cls, entry: Mapping[bytes, bytes]) -> Self:
        retire = super().parse(entry)
        retire.not_before = _not_before(entry)
        return retire


def _not_before(entry: Mapping[bytes, bytes]) -> int:
    raw = entry.get(b"not_before")
    if raw is None:
        raise InvalidError("field 'not_before' is missing")
    # Stricter than int(): "-1", "1_0" and numbers that neither Lua nor MySQL can hold are not ours.
    if raw.isdigit() and len(raw) <= _DIGITS and int(raw) <= COUNT_MAX:
        return int(raw)
    raise InvalidError(f"field 'not_before' is not a number from 0 to {COUNT_MAX}: {raw[:40]!r}")


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
    tally = None
    for name, packed in entry.items():
        if name[:1] != b"v" or not name[1:].isdigit():
            raise InvalidError(f"views entry has the foreign field {name[:40]!r}")
        part = Tally.unpack(packed)
        if tally is None:
            tally = part
        else:
            tally.merge(part)
    if tally is None:
        raise InvalidError("views entry is empty")
    return tally
