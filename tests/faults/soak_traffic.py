"""Clients that report views for as long as they are let, and book what was answered with 2xx: once each."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

_ANSWER_S = 1.5
_ACCEPTED = 202
_REFUSED = range(400, 500)
_HIGHEST_TOTAL = 3500


@dataclass
class Books:
    """What must have been counted when all has settled."""

    counts: Counter[str] = field(default_factory=Counter)
    views: int = 0
    requests: int = 0
    retries: int = 0
    refused: list[str] = field(default_factory=list)

    def book(self, batch: Sequence[dict[str, int | str]]) -> None:
        """In the order of the batch, which is the order in which its views count."""
        for view in batch:
            cid = str(view["cid"])
            if "count" in view:
                self.counts[cid] = int(view["count"])
            else:
                self.counts[cid] += int(view["views"])
        self.views += len(batch)
        self.requests += 1


@dataclass
class Client:
    """Reports one batch after the other, each under a key of its own until it is answered.

    Totals go only to its `own` contents, of which nobody else reports anything: in which order the views of two
    clients are accepted cannot be told from outside. The `shared` ones get increments.
    """

    name: str
    own: Sequence[str]
    shared: Sequence[str]
    urls: Sequence[str]
    rng: random.Random
    books: Books

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped; the last batch is repeated until it is answered."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
            for number in itertools.count():
                if stop.is_set():
                    return
                batch = [self._view() for _ in range(self.rng.randrange(1, 16))]
                if await self._report(session, batch, f"{self.name}-{number}"):
                    self.books.book(batch)
                await asyncio.sleep(self.rng.uniform(0.02, 0.12))

    def _view(self) -> dict[str, int | str]:
        if self.rng.random() < 0.5:
            return {"cid": self.rng.choice(self.shared), "views": self.rng.randrange(1, 60)}
        cid = self.rng.choice(self.own)
        if self.rng.random() < 0.5:
            return {"cid": cid, "views": self.rng.randrange(1, 400)}
        return {"cid": cid, "count": self.rng.randrange(_HIGHEST_TOTAL)}

    async def _report(self, session: aiohttp.ClientSession, batch: Sequence[object], key: str) -> bool:
        """True once accepted; False, and noted, where ingest says that it never will be."""
        while True:
            try:
                url = self.rng.choice(self.urls)
                async with session.post(url, json=batch, headers={"Idempotency-Key": key}) as answer:
                    if answer.status == _ACCEPTED:
                        return True
                    if answer.status in _REFUSED:
                        self.books.refused.append(f"{answer.status} {await answer.text()}")
                        return False
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            self.books.retries += 1
            await asyncio.sleep(self.rng.uniform(0.05, 0.3))
