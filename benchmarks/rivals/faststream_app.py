"""FastStream on Redis streams: `faststream run benchmarks.rivals.faststream_app:app`. uvloop is used where it is there.

Without its own log and without dependency injection, which the job does not need.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import asyncmy
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from benchmarks.rivals.job import BATCH, CONCURRENCY, cids, mysql_arguments, redis_url, relocate

STREAM, GROUP = "rival", "rival"
broker = RedisBroker(redis_url(), logger=None, apply_types=False)
app = FastStream(broker, logger=None)
resources: dict[str, Any] = {}


@app.on_startup
async def start() -> None:
    resources["pool"] = await asyncmy.create_pool(minsize=CONCURRENCY, maxsize=CONCURRENCY, **mysql_arguments())


@app.after_shutdown
async def stop() -> None:
    resources["pool"].close()
    await resources["pool"].wait_closed()


@broker.subscriber(
    stream=StreamSub(STREAM, group=GROUP, consumer=str(os.getpid()), max_records=100), max_workers=CONCURRENCY
)
async def job(cid: str) -> None:
    await relocate(resources["pool"], str(cid))


async def queue(jobs: int) -> None:
    await broker.connect()
    client: Any = broker._connection  # noqa: SLF001  # the group must be there before the jobs, and begin with them
    await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    names = cids(jobs)
    for start_at in range(0, jobs, BATCH):
        await asyncio.gather(*(broker.publish(cid, stream=STREAM) for cid in names[start_at : start_at + BATCH]))
    await broker.stop()


if __name__ == "__main__":
    asyncio.run(queue(int(sys.argv[1])))
