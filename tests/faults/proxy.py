"""A TCP proxy between a service and Redis or MySQL that cuts, stalls, delays, and acts at a chosen moment.
It runs in a thread of its own, so every method may be called from a test's coroutine or from any other thread:

    with Proxy.before(redis_url) as proxy:
        stack.start("mover", settings={"RESHELVE_REDIS_URL": proxy.url})

        # The first finish script never reaches Redis: the mover is killed just before.
        trap = proxy.trap(script("finish"), "before", mover.kill)
        await trap.hit()

        # The third reply to it came from Redis, and the mover does not get it before the test says so.
        trap = proxy.trap(script("finish"), "after", nth=3)
        await trap.hit()      # the moment is there, the connection is held
        ...                   # look around, stop a process, start another
        trap.release()        # or trap.cut(): the connection breaks, the reply is lost

        proxy.stall()         # nothing goes through, connections stay; proxy.resume()
        proxy.cut()           # all connections break now; new ones are taken
        proxy.refuse()        # ... and new ones break, until proxy.accept()
        proxy.delay_s = 0.05  # each chunk, both ways
        proxy.deadly = (b"poison", planner.kill)  # each time a reply holds it

A request is matched by the bytes in it (`b"COMMIT"`; `script("finish")` for a Lua script, called by its name or sent
whole) or by a function of all its bytes so far. Both protocols are lockstep on one connection, so a request is what
came since the last reply, and the reply is what comes next. A pipeline or MULTI is one request.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from tests.faults.trap import Match, Moment, Trap, script

__all__ = ["Match", "Moment", "Proxy", "Trap", "script"]

_CHUNK = 1 << 16


class Proxy:
    """Listens on a free port of the loopback for one server. See the module's text."""

    def __init__(self, host: str, port: int) -> None:
        """The server's address."""
        self._server = (host, port)
        self.port = 0
        self.url = ""
        self.delay_s = 0.0
        self.deadly: tuple[bytes, Callable[[], object]] | None = None
        self.traps: list[Trap] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._accepting = True
        self._flowing = threading.Event()
        self._flowing.set()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @classmethod
    def before(cls, url: str) -> Self:
        """In front of the server of a Redis or MySQL URL; `url` is then the same by way of the proxy."""
        parts = urlsplit(url)
        default = 6379 if parts.scheme.startswith("redis") else 3306
        proxy = cls(parts.hostname or "127.0.0.1", parts.port or default)
        proxy._listen()
        login = parts.netloc.rpartition("@")[0]
        netloc = f"{login}@127.0.0.1:{proxy.port}" if login else f"127.0.0.1:{proxy.port}"
        proxy.url = urlunsplit(parts._replace(netloc=netloc))
        return proxy

    def trap(self, match: Match, moment: Moment, hook: Callable[[], object] | None = None, nth: int = 1) -> Trap:
        """Set a trap for the `nth` matching request from now on; `hook` runs in a thread and may block."""
        trap = Trap(match, moment, hook, nth)
        self.traps.append(trap)
        return trap

    def cut(self) -> None:
        """Break all connections, as a server that dies does."""
        self._soon(self._abort_all)

    def stall(self) -> None:
        """Keep all connections, forward nothing."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def refuse(self) -> None:
        """Break all connections and every new one."""
        self._accepting = False
        self.cut()

    def accept(self) -> None:
        self._accepting = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut everything and end the thread."""
        for trap in self.traps:
            trap.cut()
        self._flowing.set()
        self._soon(self._end.set)
        self._thread.join(10)

    # --- in the proxy's thread ---

    def _listen(self) -> None:
        self._thread.start()
        self._started.wait(10)

    def _soon(self, action: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(action)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._end.wait()
        server.close()
        self._abort_all()
        while self._writers:  # noqa: ASYNC110  # ends within a moment
            await asyncio.sleep(0.01)

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = [writer]
        self._writers.add(writer)
        try:
            if self._accepting:
                with suppress(OSError):
                    there, back = await asyncio.open_connection(*self._server)
                    mine.append(back)
                    self._writers.add(back)
                    await _Link(self, reader, back, there, writer).run()
        finally:
            for each in mine:
                each.transport.abort()
                self._writers.discard(each)

    async def forward(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        while not self._flowing.is_set():  # noqa: ASYNC110  # other threads set it
            await asyncio.sleep(0.01)
        writer.write(chunk)
        await writer.drain()

    async def spring(self, trap: Trap) -> None:
        # A thread of its own: any number of connections may be held at once.
        done: asyncio.Future[bool] = self._loop.create_future()

        def spring() -> None:
            answer = trap.spring()
            self._soon(lambda: None if done.done() else done.set_result(answer))

        threading.Thread(target=spring, daemon=True).start()
        if not await done:
            raise ConnectionAbortedError


class _Link:
    """One client's connection and its counterpart to the server."""

    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client, self._to_server = client, to_server
        self._server, self._to_client = server, to_client
        self._request = b""
        self._matched: set[Trap] = set()
        self._awaiting: list[Trap] = []

    async def run(self) -> None:
        """Until one side ends it."""
        pumps = [asyncio.create_task(self._requests()), asyncio.create_task(self._replies())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self) -> None:
        while chunk := await self._client.read(_CHUNK):
            self._request += chunk
            for trap in self._proxy.traps:
                # Also a trap that counts on: a request in several chunks is still one.
                if trap in self._matched or not trap.matches(self._request):
                    continue
                self._matched.add(trap)
                if not trap.counts():
                    continue
                if trap.moment == "before":
                    await self._proxy.spring(trap)
                else:
                    self._awaiting.append(trap)
            await self._proxy.forward(self._to_server, chunk)

    async def _replies(self) -> None:
        while chunk := await self._server.read(_CHUNK):
            self._request = b""
            self._matched.clear()
            awaiting, self._awaiting = self._awaiting, []
            for trap in awaiting:
                await self._proxy.spring(trap)
            if self._proxy.deadly and self._proxy.deadly[0] in chunk:
                await asyncio.to_thread(self._proxy.deadly[1])
            await self._proxy.forward(self._to_client, chunk)
