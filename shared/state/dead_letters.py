"""What an operator does about dead letters: look, put back, drop. Burying them is `moves.DeadLetters`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import orjson

from shared.errors import InvalidError, ReshelveError
from shared.keys import WORK_STREAMS
from shared.names import check_cid, is_cid
from shared.state.joining import Argument
from shared.state.moves import WAITED
from shared.state.scripts import Scripts

LETTER_PATTERN = r"^[0-9]{1,5}:[0-9]{1,20}-[0-9]{1,20}$"
_LETTER = re.compile(r"([0-9]{1,5}):([0-9]{1,20})-([0-9]{1,20})")
_STREAM_ID_MAX = 2**64 - 1
_LOOKED_AT = 500
"""Letters that one script call looks at: Redis does nothing else meanwhile."""

ORIGINS = (*WORK_STREAMS, "later")
"""Where dead letters come from; `later` is no stream, and what died there never was an entry."""
_OF_ONE_CONTENT = {"moves", "placed", "retires"}

Dropped = Literal["rests", "dropped"]
"""`rests`: the content is idle now. `dropped`: the letter alone, it has no content or that has moved on."""


class GoneError(ReshelveError):
    """There is no such dead letter: it was retried or dropped, or never was."""


class RefusedError(ReshelveError):
    """The letter cannot go back: its content has moved on, or it never was an entry. Nothing was done."""


@dataclass(frozen=True, slots=True)
class LetterId:
    """Where a letter lies; as text `<partition>:<stream id>`."""

    partition: int
    entry: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidError."""
        match = _LETTER.fullmatch(text)
        if match is None or max(int(match[2]), int(match[3])) > _STREAM_ID_MAX:
            raise InvalidError(f"{text[:80]!r} is no dead letter's id: write <partition>:<stream id>, as the list does")
        return cls(int(match[1]), f"{int(match[2])}-{int(match[3])}")

    def __str__(self) -> str:
        return f"{self.partition}:{self.entry}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters: empty means any; what is given must all hold."""

    stream: str = ""
    reason: str = ""
    cid: str = ""

    @classmethod
    def parse(cls, stream: str | None, reason: str | None, cid: str | None) -> Self:
        """None means any. Raises InvalidError for what no letter can have."""
        if stream is not None and stream not in ORIGINS:
            raise InvalidError(f"there are no dead letters of stream {stream[:80]!r}: name one of {', '.join(ORIGINS)}")
        if reason == "":
            raise InvalidError("reason is empty: every dead letter has one, leave it out for any")
        return cls(stream or "", reason or "", "" if cid is None else check_cid(cid))


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without what it holds; `cid` and `move_id` are empty where it names none, times are ms.

    `stream` is where it came from: a work stream, or `later`.
    """

    id: str
    stream: str
    reason: str
    detail: str
    attempts: int
    died_at: int
    entry_id: str
    cid: str
    move_id: str


class DeadLetterQueue:
    """The dead letters of all partitions, oldest first within each. All methods raise redis.RedisError."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts

    async def list(self, wanted: Filter, limit: int, after: LetterId | None = None) -> Sequence[Letter]:
        """At most `limit` letters that come after the one with the id `after`."""
        found: list[Letter] = []
        first = after.partition if after else 0
        for keys in self._scripts.partitions[first:]:
            last = after.entry if after and after.partition == keys.partition else ""
            while len(found) < limit:
                arguments: list[Argument] = [last, _LOOKED_AT, limit - len(found)]
                arguments += (
                    text.encode(errors="surrogateescape") for text in (wanted.stream, wanted.reason, wanted.cid)
                )
                cursor, *rows = await self._scripts.call("letters", [keys.dead], arguments)
                found += [_letter(keys.partition, row) for row in rows]
                last = cursor.decode()
                if not last:
                    break
        return found

    async def show(self, id_: LetterId) -> tuple[Letter, dict[str, str]]:
        """The letter, and what the entry that died said, field by field. What is not UTF-8 is escaped.

        Raises GoneError.
        """
        letter, fields = await self._read(id_)
        return letter, spread({name[2:]: value for name, value in fields.items() if name[:2] == b"f:"})

    async def retry(self, id_: LetterId) -> str:
        """Put the entry back onto its stream, with all its attempts before it; returns its new id there.

        Raises GoneError, RefusedError.
        """
        letter, _ = await self._read(id_)
        if letter.stream not in WORK_STREAMS:
            raise RefusedError(f"{letter.id} never was an entry of a stream ({letter.detail}): drop it")
        keys = self._scripts.partitions[id_.partition]
        names = [keys.dead, keys.prefix + letter.stream, *self._content_of(id_, letter)]
        arguments = [id_.entry, letter.stream, letter.move_id, WAITED]
        outcome, *rest = await self._scripts.call("retry", names, arguments)
        if outcome == b"gone":
            raise _gone(id_)
        if outcome == b"moved on":
            raise RefusedError(_moved_on(letter, *(value.decode() for value in rest)))
        return cast("str", rest[0].decode())

    async def drop(self, id_: LetterId) -> Dropped:
        """Remove the letter and bring its content to rest; whoever calls has written down why. Raises GoneError."""
        letter, _ = await self._read(id_)
        keys, content = self._scripts.partitions[id_.partition], self._content_of(id_, letter)
        names = [keys.dead, *content, *([keys.counts] if content else [])]
        arguments = [id_.entry, letter.stream, letter.move_id, letter.cid if content else ""]
        outcome = (await self._scripts.call("drop", names, arguments)).decode()
        if outcome == "gone":
            raise _gone(id_)
        return cast("Dropped", outcome)

    async def _read(self, id_: LetterId) -> tuple[Letter, Mapping[bytes, bytes]]:
        if id_.partition >= len(self._scripts.partitions):
            raise _gone(id_)
        keys = self._scripts.partitions[id_.partition]
        redis: Any = self._scripts.redis  # its types know nothing of answers in bytes
        rows: Sequence[tuple[bytes, dict[bytes, bytes]]] = await redis.xrange(keys.dead, id_.entry, id_.entry)
        if not rows:
            raise _gone(id_)
        entry, fields = rows[0]
        names = (b"origin", b"reason", b"detail", b"attempts", b"died_at", b"entry_id", b"f:cid", b"f:move_id")
        return _letter(id_.partition, [entry, *(fields.get(name, b"") for name in names)]), fields

    def _content_of(self, id_: LetterId, letter: Letter) -> Sequence[str]:
        """The key of the content that the letter belongs to, if it belongs to one; views belong to many."""
        if letter.stream not in _OF_ONE_CONTENT or not letter.move_id or not is_cid(letter.cid):
            return []
        keys = self._scripts.of(letter.cid)
        return [keys.content(letter.cid)] if keys.partition == id_.partition else []


def _letter(partition: int, row: Sequence[bytes]) -> Letter:
    entry, stream, reason, detail, attempts, died_at, entry_id, cid, move_id = (_text(value) for value in row)
    id_ = str(LetterId(partition, entry))
    return Letter(id_, stream, reason, detail, int(attempts), int(died_at), entry_id, cid, move_id)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def _gone(id_: LetterId) -> GoneError:
    return GoneError(f"there is no dead letter {id_}: it was retried or dropped, list them anew")


def _moved_on(letter: Letter, move_id: str, status: str) -> str:
    if not status:
        now = "Redis no longer knows it"
    elif move_id == letter.move_id:
        now = f"its move is {status} by now"
    else:
        now = f"it is {status} with move {move_id}" if move_id else f"it is {status}"
    return f"content {letter.cid} has moved on since {letter.id} died: {now}: drop the letter"


def spread(entry: Mapping[bytes, bytes]) -> dict[str, str]:
    """An entry's fields as text, with those of its body in the body's place where that is what our services write."""
    found: dict[str, str] = {}
    for name, value in entry.items():
        inner = _object(value) if name == b"body" else None
        found |= {_text(name): _text(value)} if inner is None else {key: _shown(each) for key, each in inner.items()}
    return found


def _shown(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _object(packed: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(packed)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
