"""Views that keep coming in while containers come and go; what was accepted is remembered."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.containers.composed import Composed

_BATCH = 10
_PAUSE_S = 0.05
_HIGHEST_TOTAL = 3500
_PATIENCE_S = 60


@dataclass
class Traffic:
    """One client that waits for each answer, so that the order of its views is known. `repeats`: requests in vain."""

    stack: Composed
    cids: Sequence[str]
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    counts: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    repeats: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Half increments, half totals; until stopped."""
        headers = {"Authorization": f"Bearer {await asyncio.to_thread(self.stack.token, 'producer')}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=8)) as session:
            while not stop.is_set():
                batch = [self._view(cid) for cid in self.rng.sample(self.cids, _BATCH)]
                await self.send(session, batch)
                await asyncio.sleep(_PAUSE_S)

    def _view(self, cid: str) -> dict[str, str | int]:
        if self.rng.random() < 0.5:
            return {"cid": cid, "views": self.rng.randrange(1, 600)}
        return {"cid": cid, "count": self.rng.randrange(_HIGHEST_TOTAL)}

    async def send(self, session: aiohttp.ClientSession, batch: Sequence[dict[str, str | int]]) -> None:
        """Repeat under one key until it is accepted."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        async with asyncio.timeout(_PATIENCE_S):
            while not await self._accepted(session, batch, key):
                self.repeats += 1
                await asyncio.sleep(0.1)
        self.requests += 1
        for view in batch:
            cid = str(view["cid"])
            self.counts[cid] = int(view["count"]) if "count" in view else self.counts[cid] + int(view["views"])

    async def _accepted(
        self, session: aiohttp.ClientSession, batch: Sequence[dict[str, str | int]], key: dict[str, str]
    ) -> bool:
        try:
            async with session.post(f"{self.stack.http}/v1/views", json=batch, headers=key) as answer:
                assert answer.status in {202, 503}, await answer.text()
                return answer.status == 202
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


@asynccontextmanager
async def traffic(stack: Composed, cids: Sequence[str]) -> AsyncIterator[Traffic]:
    """Runs within the block; what was accepted is complete after it."""
    running, stop = Traffic(stack, cids), asyncio.Event()
    task = asyncio.create_task(running.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await task
