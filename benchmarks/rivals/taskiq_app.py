"""taskiq on Redis streams: `taskiq worker benchmarks.rivals.taskiq_app:broker`. It takes uvloop where it is there."""

from __future__ import annotations

import asyncio
import sys

import asyncmy
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from benchmarks.rivals.job import BATCH, CONCURRENCY, cids, mysql_arguments, redis_url, relocate

# From "0": the jobs are queued before the workers start.
broker = RedisStreamBroker(redis_url(), queue_name="rival", consumer_id="0")


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def start(state: TaskiqState) -> None:
    state.pool = await asyncmy.create_pool(minsize=CONCURRENCY, maxsize=CONCURRENCY, **mysql_arguments())


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def stop(state: TaskiqState) -> None:
    state.pool.close()
    await state.pool.wait_closed()


# Named: by itself the name would depend on how this module was started.
@broker.task("job")
async def job(cid: str) -> None:
    await relocate(broker.state.pool, cid)


async def queue(jobs: int) -> None:
    await broker.startup()
    names = cids(jobs)
    for start_at in range(0, jobs, BATCH):
        await asyncio.gather(*(job.kiq(cid) for cid in names[start_at : start_at + BATCH]))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(queue(int(sys.argv[1])))
