"""The verbs on entries that are being worked on: the mover's, the recorder's, and giving up, which is everybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

from shared.errors import DeadLetterError
from shared.keys import GROUPS, StreamName
from shared.messages import Move, Placed, Retire
from shared.state.joining import Argument
from shared.state.scripts import Scripts

OBSOLETE = 0
NOT_MINE = -1
SETTLED = 1
CAME_BACK = 2
"""Settled on the level that it had left less than `FLIP_FLOP_MS` ago."""
FLIP_FLOP_MS = 24 * 3600 * 1000
WAITED = "waited"
"""The field of an entry that was put aside without a count."""


class RawEntry(NamedTuple):
    """An entry of a work stream as it was read; `deliveries` counts how often it was handed to a consumer."""

    stream: StreamName
    partition: int
    entry_id: bytes
    fields: Mapping[bytes, bytes]
    deliveries: int = 1


class Held(NamedTuple):
    """A decoded entry of a work stream in this consumer's hands; `attempt` is the fencing token, 0 before the start.

    `waited` of the attempts do not count: they ended before any work, or for what the content cannot help.
    """

    stream: StreamName
    partition: int
    entry_id: bytes
    message: Move | Placed | Retire
    attempt: int = 0
    waited: int = 0

    @property
    def tries(self) -> int:
        """The attempts that count."""
        return self.attempt - self.waited

    def begun(self, attempt: int) -> Held:
        """The same with its fencing token."""
        return Held(self.stream, self.partition, self.entry_id, self.message, attempt, self.waited)


class Moves:
    """The mover's verbs. Batches are of one partition; a refused item changed nothing."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts

    def partition_of(self, cid: str) -> int:
        """The partition on which the cid's entries belong."""
        return self._scripts.of(cid).partition

    async def start(self, stream: StreamName, partition: int, consumer: str, held: Sequence[Held]) -> list[int]:
        """Per item its attempt (from 1), OBSOLETE (dropped: the content has moved on) or NOT_MINE."""
        keys = self._scripts.partitions[partition]
        names = [keys.stream(stream), *(keys.content(item.message.cid) for item in held)]
        arguments: list[Argument] = [GROUPS[stream], consumer, "moving" if stream == "moves" else "retiring"]
        for item in held:
            arguments += (item.entry_id, item.message.move_id)
        return list(await self._scripts.join("start", names, arguments))

    async def finish(self, partition: int, items: Sequence[tuple[Held, Placed]]) -> list[bool]:
        """Per item whether the move is done and the recorder told; False where the attempt is stale."""
        keys = self._scripts.partitions[partition]
        names = [keys.stream("moves"), keys.stream("placed")]
        arguments: list[Argument] = [GROUPS["moves"], 0]
        for held, placed in items:
            flat = placed.wire()
            names.append(keys.content(placed.cid))
            arguments[1] = len(flat)
            arguments += (held.entry_id, placed.move_id, held.attempt, *flat)
        return [reply == 1 for reply in await self._scripts.join("finish", names, arguments)]

    async def settle(self, partition: int, held: Sequence[Held]) -> list[int]:
        """Per item SETTLED or CAME_BACK (and up for review), or 0 where the attempt is stale."""
        keys = self._scripts.partitions[partition]
        names = [keys.stream("retires"), keys.review, *(keys.content(item.message.cid) for item in held)]
        arguments: list[Argument] = [GROUPS["retires"], FLIP_FLOP_MS]
        for item in held:
            message = item.message
            arguments += (item.entry_id, message.cid, message.move_id, item.attempt, message.from_level)
        return list(await self._scripts.join("settle", names, arguments))

    async def postpone(self, held: Held, wait_ms: int, error: str, *, counted: bool = True) -> bool:
        """Put the entry aside for `wait_ms`; False where the attempt is stale.

        What does not count is written in the entry: the content's attempt is the fencing token, and never goes back.
        """
        keys = self._scripts.partitions[held.partition]
        names = [keys.stream(held.stream), keys.later, keys.content(held.message.cid)]
        waited = held.waited + (not counted)
        member = orjson.dumps([held.stream, *held.message.wire(), *([WAITED, str(waited)] if waited else [])])
        arguments: list[Argument] = [
            GROUPS[held.stream],
            held.entry_id,
            held.message.move_id,
            held.attempt,
            wait_ms,
            member,
            error,
        ]
        return bool(await self._scripts.call("postpone", names, arguments))

    async def withdraw(self, held: Held, wait_ms: int) -> bool:
        """Take a move back of which nothing was placed: it is planned anew after `wait_ms`. False where it is stale."""
        keys = self._scripts.partitions[held.partition]
        cid, move_id = held.message.cid, held.message.move_id
        names = [keys.stream("moves"), keys.review, keys.content(cid)]
        arguments: list[Argument] = [GROUPS["moves"], held.entry_id, cid, move_id, held.attempt, wait_ms]
        return bool(await self._scripts.call("withdraw", names, arguments))

    async def due(self, partition: int, limit: int) -> int:
        """Put entries whose time has come back onto their streams; returns how many were taken out.

        One that is no entry of ours becomes a dead letter.
        """
        keys = self._scripts.partitions[partition]
        names = [keys.later, keys.stream("moves"), keys.stream("retires"), keys.dead]
        return int(await self._scripts.join("due", names, [limit]))

    async def current(self, partition: int, held: Sequence[Held]) -> list[bool]:
        """Per item whether its attempt is still the content's latest; read just before what cannot be undone."""
        keys = self._scripts.partitions[partition]
        names = [keys.content(item.message.cid) for item in held]
        arguments: list[Argument] = []
        for item in held:
            arguments += (item.message.move_id, item.attempt)
        return [reply == 1 for reply in await self._scripts.join("current", names, arguments)]


class Commitment(NamedTuple):
    """A placed entry whose relocation MySQL has committed. `body` is the entry's own, which the retire takes over."""

    entry_id: bytes
    cid: str
    move_id: str
    level: str
    body: bytes


class Commits:
    """The recorder's verb."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts

    def partition_of(self, cid: str) -> int:
        """The partition on which the cid's entries belong."""
        return self._scripts.of(cid).partition

    async def commit(self, partition: int, commitments: Sequence[Commitment], not_before: int) -> list[int]:
        """Per item 1 its retire is ordered, 2 the state had moved on and is reviewed, 0 it was handled before.

        The sources may be retired from `not_before` on (ms; 0: at once).
        """
        keys = self._scripts.partitions[partition]
        prefix = keys.content_prefix
        names = [keys.stream("placed"), keys.stream("retires"), keys.later, keys.review]
        names += [prefix + item.cid for item in commitments]
        arguments: list[Argument] = [GROUPS["placed"], not_before]
        for item in commitments:
            arguments += item
        return list(await self._scripts.join("commit", names, arguments))


class DeadLetters:
    """Giving up."""

    def __init__(self, scripts: Scripts) -> None:
        """All writes go through `scripts`."""
        self._scripts = scripts

    async def bury(self, held: Held, error: DeadLetterError, *, fenced: bool = True) -> bool:
        """Make a decoded entry a dead letter and its content failed; False where the entry was handled before.

        `fenced` refuses a stale attempt too; without it, an entry whose content has moved on is buried alone.
        """
        message = held.message
        attempt = held.attempt if fenced else ""
        arguments: list[Argument] = [error.reason, error.detail, held.attempt, message.move_id, attempt]
        arguments += message.wire()
        if await self._bury(held, arguments, message.cid):
            return True
        return not fenced and await self._bury(held, arguments, None)

    async def bury_raw(self, entry: RawEntry, error: DeadLetterError) -> bool:
        """Make an entry that cannot be decoded a dead letter; False where it was handled before."""
        flat: list[Argument] = [part for pair in entry.fields.items() for part in pair]
        return await self._bury(entry, [error.reason, error.detail, entry.deliveries, "", "", *flat], None)

    async def _bury(self, entry: Held | RawEntry, arguments: Sequence[Argument], cid: str | None) -> bool:
        keys = self._scripts.partitions[entry.partition]
        names = [keys.stream(entry.stream), keys.dead]
        if cid is not None:
            names.append(keys.content(cid))
        first: list[Argument] = [GROUPS[entry.stream], entry.entry_id, entry.stream]
        return bool(await self._scripts.call("fail", names, [*first, *arguments]))
