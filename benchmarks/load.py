"""HTTP load from one process: prepared requests over connections that are kept alive, one in flight on each.

`python -m benchmarks.load --port 8080 --views 100` prints what came of five seconds, as one line of JSON. A raw
epoll loop instead of an HTTP client: it shares the cores with what it measures, and costs about 10 us a request there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

CONTENTS = 10_000
CATALOG = 1_000_000
_PREPARED_VIEWS = 1_000_000
"""Of a million contents some 230,000. Going round flatters nobody: ingest remembers none of them."""
_BODY_START = b"\r\n\r\n"
_LENGTH = b"content-length: "
_RECEIVED_BYTES = 65_536
_POLL_S = 0.1


def zipf_cids(n: int, contents: int = CONTENTS, seed: int = 7) -> list[str]:
    """`n` cids of `contents`, the k-th most popular wanted 1/k as often as the first."""
    weights = [1 / rank for rank in range(1, contents + 1)]
    return [f"content-{rank}" for rank in random.Random(seed).choices(range(contents), weights, k=n)]


def view_requests(views: int, headers: str = "", contents: int = CATALOG) -> list[bytes]:
    """POSTs of `views` views each: one as JSON, more as NDJSON. `headers` are further lines, each with its CRLF.

    The views are drawn from so many contents. Of a million, the most popular gets 7 % of them, and half of all are of
    the 800 most popular.
    """
    lines = [f'{{"cid":"{cid}"}}' for cid in zipf_cids(max(_PREPARED_VIEWS, views), contents)]
    kind = "application/json" if views == 1 else "application/x-ndjson"
    bodies = ("\n".join(lines[at : at + views]).encode() for at in range(0, len(lines) - views + 1, views))
    head = f"POST /v1/views HTTP/1.1\r\nHost: ingest\r\nContent-Type: {kind}\r\n{headers}Content-Length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


@dataclass
class Outcome:
    """Answers by status, over how many seconds, and how long each took (ms, ascending)."""

    answers: Counter[int]
    seconds: float
    waits_ms: list[float]

    def per_s(self, status: int = 202) -> float:
        return self.answers[status] / self.seconds

    def wait_ms(self, share: float) -> float:
        """The wait that `share` of the answers did not exceed."""
        return self.waits_ms[int(share * (len(self.waits_ms) - 1))] if self.waits_ms else 0.0


@dataclass
class _Connection:
    channel: socket.socket
    sent_at: float = 0.0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytes = b""

    def send(self, request: bytes) -> bool:
        """False where the rest must wait until the socket takes more."""
        self.sent_at = time.perf_counter()
        self.unsent = memoryview(request)
        return self.resume()

    def resume(self) -> bool:
        try:
            self.unsent = self.unsent[self.channel.send(self.unsent) :]
        except BlockingIOError:
            return False
        return not self.unsent

    def answer(self) -> bytes:
        """The whole answer, or nothing where some of it is still to come. Raises ConnectionError at its end."""
        data = self.channel.recv(_RECEIVED_BYTES)
        if not data:
            raise ConnectionError("the server closed a connection: is it ready?")
        self.received = data = self.received + data
        head = data.find(_BODY_START)
        if head < 0:
            return b""
        start = data[:head].lower().find(_LENGTH)
        length = int(data[start + len(_LENGTH) :].split(b"\r", 1)[0]) if start > 0 else 0
        if len(data) < head + len(_BODY_START) + length:
            return b""
        self.received = b""
        return data


def press(host: str, port: int, requests: Sequence[bytes], *, connections: int = 64, seconds: float = 5) -> Outcome:
    """Send the requests over and over. Raises ConnectionError where the server ends a connection."""
    supply = itertools.cycle(requests)
    poll = select.epoll()
    open_now = {made.channel.fileno(): made for made in (_connect(host, port) for _ in range(connections))}
    outcome = Outcome(Counter(), 0.0, [])
    started = time.perf_counter()
    try:
        for descriptor, connection in open_now.items():
            poll.register(descriptor, _awaited(sent=connection.send(next(supply))))
        while time.perf_counter() - started < seconds:
            _turn(poll, open_now, supply, outcome)
    finally:
        outcome.seconds = time.perf_counter() - started
        for connection in open_now.values():
            connection.channel.close()
        poll.close()
    outcome.waits_ms.sort()
    return outcome


def _turn(poll: select.epoll, open_now: dict[int, _Connection], supply: Iterator[bytes], outcome: Outcome) -> None:
    for descriptor, event in poll.poll(_POLL_S):
        connection = open_now[descriptor]
        if event & select.EPOLLOUT:
            if connection.resume():
                poll.modify(descriptor, select.EPOLLIN)
            continue
        answer = connection.answer()
        if not answer:
            continue
        outcome.answers[int(answer[9:12])] += 1
        outcome.waits_ms.append((time.perf_counter() - connection.sent_at) * 1000)
        if not connection.send(next(supply)):
            poll.modify(descriptor, _awaited(sent=False))


def _awaited(*, sent: bool) -> int:
    return select.EPOLLIN if sent else select.EPOLLIN | select.EPOLLOUT


def _connect(host: str, port: int) -> _Connection:
    channel = socket.create_connection((host, port))
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel.settimeout(0)
    return _Connection(channel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--contents", type=int, default=CATALOG, help="how many the views are drawn from")
    parser.add_argument("--views", type=int, default=1, help="views in one request")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    asked = parser.parse_args()
    requests = view_requests(asked.views, contents=asked.contents)
    outcome = press(asked.host, asked.port, requests, connections=asked.connections, seconds=asked.seconds)
    print(
        json.dumps(
            {
                "answers": outcome.answers,
                "requests_per_s": round(outcome.per_s()),
                "views_per_s": round(outcome.per_s() * asked.views),
                "median_ms": round(outcome.wait_ms(0.5), 2),
                "p99_ms": round(outcome.wait_ms(0.99), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
