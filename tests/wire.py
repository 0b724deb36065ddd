"""The wire to a server, which can break for real: before a request arrives, or before its answer does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

Lost = Literal["request", "answer"]


class Wire:
    """A proxy in front of a Redis or MySQL. `url` leads through it."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.url = ""
        self.breaks = 0
        self._lose: Lost = "request"
        self._words: Sequence[bytes] = ()
        self._countdown = 0
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        wire = cls(url)
        wire._server = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
        port = wire._server.sockets[0].getsockname()[1]
        login, at, _ = wire._target.netloc.rpartition("@")
        wire.url = urlunsplit(wire._target._replace(netloc=f"{login}{at}127.0.0.1:{port}"))
        try:
            yield wire
        finally:
            wire._server.close()
            # Closed, not cancelled: asyncio's own callback stumbles over a cancelled handler.
            for end in wire._ends:
                end.close()
            await asyncio.gather(*wire._tasks)

    def lose(self, what: Lost, words: Sequence[bytes], nth: int = 1) -> None:
        """Break the connection at the nth request from now that contains one of the `words`, once."""
        self._lose, self._words, self._countdown = what, words, nth

    def _breaks_at(self, request: bytes) -> bool:
        if self._countdown == 0 or not any(word in request for word in self._words):
            return False
        self._countdown -= 1
        if self._countdown:
            return False
        self.breaks += 1
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        ends = {writer, far_writer}
        self._ends |= ends
        answers = asyncio.create_task(_pass_on(far_reader, writer))
        try:
            with suppress(ConnectionError):
                await self._pass_requests(reader, far_reader, far_writer, answers)
        finally:
            await _end(answers)
            for end in ends:
                end.close()
            self._ends -= ends
            self._tasks.discard(task)

    async def _pass_requests(
        self,
        reader: asyncio.StreamReader,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
        answers: asyncio.Task[None],
    ) -> None:
        while request := await reader.read(65536):
            if self._breaks_at(request):
                if self._lose == "answer":
                    await _end(answers)
                    far_writer.write(request)
                    await far_reader.read(65536)
                return
            far_writer.write(request)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
