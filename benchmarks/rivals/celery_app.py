"""Celery on Redis: `celery -A benchmarks.rivals.celery_app worker`. No results, no rate limits, long prefetch."""

from __future__ import annotations

import sys
from typing import Any

import pymysql
from celery import Celery
from celery.signals import worker_process_init

from benchmarks.rivals.job import cids, mysql_arguments, redis_url, relocate_blocking

app = Celery("rival", broker=redis_url())
app.conf.update(
    task_ignore_result=True,
    # Its guide to optimizing: for many short tasks 64 or 128.
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
)
resources: dict[str, Any] = {}


@worker_process_init.connect
def start(**_: Any) -> None:
    resources["connection"] = pymysql.connect(**mysql_arguments())


@app.task
def job(cid: str) -> None:
    relocate_blocking(resources["connection"], cid)


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for name in cids(int(sys.argv[1])):
            # By the name that the worker knows the task by: here this module is __main__.
            app.send_task("benchmarks.rivals.celery_app.job", (name,), producer=producer)
