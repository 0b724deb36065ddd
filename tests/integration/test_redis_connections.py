"""Connections to Redis that break at any moment: whatever happens to them is told as an outage."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from shared.redis_client import connect, is_down

_CLIENTS, _COMMANDS = 16, 400


def test_a_connection_that_breaks_before_a_write_is_an_outage() -> None:
    """uvloop raises RuntimeError there, one in three times: fails where the client lets it through."""
    with breaking_server() as port:
        outcomes = uvloop.run(send_many(f"redis://127.0.0.1:{port}"))
    assert outcomes["answered"] > _CLIENTS * _COMMANDS / 2
    assert outcomes["away"] > 100, "hardly a connection broke"
    assert set(outcomes) == {"answered", "away"}


async def send_many(url: str) -> Counter[str]:
    redis = connect(url)
    outcomes: Counter[str] = Counter()

    async def client() -> None:
        for _ in range(_COMMANDS):
            await asyncio.sleep(random.random() * 0.0012)
            try:
                await redis.execute_command("PING")  # type: ignore[no-untyped-call]
                outcomes["answered"] += 1
            except Exception as error:  # noqa: BLE001  # which errors come is what is asked
                outcomes["away" if is_down(error) else repr(error)] += 1

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    await redis.aclose()
    return outcomes


@contextmanager
def breaking_server() -> Iterator[int]:
    """Answers each command with PONG; resets a connection a moment after every third."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening,), daemon=True).start()
        yield int(listening.getsockname()[1])


def _accept(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    answered = 0
    try:
        while data := connection.recv(4096):
            commands = data.count(b"*")
            connection.sendall(b"+PONG\r\n" * commands)
            answered += commands
            if answered > 4 and answered % 3 == 0:
                time.sleep(0.0008 * random.random())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
    except OSError:  # the test is over
        return
    finally:
        connection.close()
