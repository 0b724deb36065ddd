"""Calls of one script for several partitions that are made at the same moment, as one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

Argument = str | bytes | int | float
Run = Callable[[str, Sequence[str], Sequence[Argument]], Awaitable[Any]]

_VALUES = 4096
"""At most in one command, unless one call has more: so many have the tally's largest, which hold Redis for 10 ms."""


@dataclass(slots=True)
class _Call:
    keys: Sequence[str]
    arguments: Sequence[Argument]
    size: int
    reply: asyncio.Future[Any]


class Joining:
    """Whoever calls first lets all else that is ready to run make its calls, and sends them: no timer, no added delay.

    A command by itself costs far more, here and in Redis, than what it does where a partition has only little to do.
    """

    def __init__(self, *, alone: Run, together: Run) -> None:
        """Both send a script by its name; `together` for several partitions, see each.lua."""
        self._alone = alone
        self._together = together
        self._waiting: dict[str, list[_Call]] = {}

    async def call(self, name: str, keys: Sequence[str], arguments: Sequence[Argument], packed: int = 0) -> Any:
        """The script's reply. Raises redis.RedisError, this call's own; whether the script ran is then unknown.

        `packed`: how many values are within the arguments, besides themselves.
        """
        size = len(keys) + len(arguments) + packed
        call = _Call(keys, arguments, size, asyncio.get_running_loop().create_future())
        if name in self._waiting:
            self._waiting[name].append(call)
            return await call.reply
        calls = self._waiting[name] = [call]
        try:
            await self._lead(name, calls)
        except BaseException:
            call.reply.cancel()
            for other in calls[1:]:
                _fail(other, RedisConnectionError("the command was broken off"))
            raise
        return call.reply.result()

    async def _lead(self, name: str, calls: list[_Call]) -> None:
        """Every call has its reply afterwards."""
        try:
            await asyncio.sleep(0)
        finally:
            del self._waiting[name]
        await asyncio.gather(*(self._send(name, some) for some in _commands(calls)))

    async def _send(self, name: str, calls: Sequence[_Call]) -> None:
        try:
            replies = await self._ask(name, calls)
        except Exception as error:  # noqa: BLE001  # handed to those who wait for a reply
            for call in calls:
                _fail(call, error)
            return
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                _fail(call, reply)
            elif not call.reply.done():
                call.reply.set_result(reply)

    async def _ask(self, name: str, calls: Sequence[_Call]) -> Sequence[Any]:
        if len(calls) == 1:
            return [await self._alone(name, calls[0].keys, calls[0].arguments)]
        keys: list[str] = []
        arguments: list[Argument] = []
        for call in calls:
            keys += call.keys
            arguments += (len(call.keys), len(call.arguments), *call.arguments)
        replies: Sequence[Any] = await self._together(name, keys, arguments)
        return replies


def _fail(call: _Call, error: Exception) -> None:
    if not call.reply.done():
        call.reply.set_exception(error)


def _commands(calls: Sequence[_Call]) -> Iterator[list[_Call]]:
    some: list[_Call] = []
    size = 0
    for call in calls:
        if some and size + call.size > _VALUES:
            yield some
            some, size = [], 0
        some.append(call)
        size += call.size
    yield some
