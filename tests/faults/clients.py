"""Clients that report views while something else goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.faults.house import House


async def stream_views(house: House, cids: Sequence[str], seconds: float, prefix: str) -> None:
    """Four clients, each of which repeats under its key until it has its 202."""

    async def client(number: int) -> None:
        end, turn = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            await house.view_surely(dict.fromkeys(cids, 7 + number), f"{prefix}-{number}-{turn}")
            turn += 1
            await asyncio.sleep(0.02)

    await asyncio.gather(*(client(number) for number in range(4)))
