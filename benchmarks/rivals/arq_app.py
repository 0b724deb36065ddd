"""arq on Redis: `arq benchmarks.rivals.arq_app.WorkerSettings`. Polls every 10 ms instead of every half second."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncmy
import uvloop
from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.rivals.job import BATCH, CONCURRENCY, cids, mysql_arguments, redis_url, relocate

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def job(context: dict[str, Any], cid: str) -> None:
    await relocate(context["pool"], cid)


async def start(context: dict[str, Any]) -> None:
    context["pool"] = await asyncmy.create_pool(minsize=CONCURRENCY, maxsize=CONCURRENCY, **mysql_arguments())


async def stop(context: dict[str, Any]) -> None:
    context["pool"].close()
    await context["pool"].wait_closed()


class WorkerSettings:
    """What the command arq reads."""

    functions = (job,)
    on_startup = start
    on_shutdown = stop
    redis_settings = RedisSettings.from_dsn(redis_url())
    max_jobs = CONCURRENCY
    poll_delay = 0.01
    keep_result = 0
    log_results = False


async def queue(jobs: int) -> None:
    pool = await create_pool(RedisSettings.from_dsn(redis_url()))
    names = cids(jobs)
    for start_at in range(0, jobs, BATCH):
        await asyncio.gather(*(pool.enqueue_job("job", cid) for cid in names[start_at : start_at + BATCH]))
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(queue(int(sys.argv[1])))
