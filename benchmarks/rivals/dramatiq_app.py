"""dramatiq on Redis: `dramatiq benchmarks.rivals.dramatiq_app`. A connection to MySQL per thread."""

from __future__ import annotations

import sys
import threading

import dramatiq
import pymysql
from dramatiq.brokers.redis import RedisBroker

from benchmarks.rivals.job import cids, mysql_arguments, redis_url, relocate_blocking

broker = RedisBroker(url=redis_url())
dramatiq.set_broker(broker)
local = threading.local()


@dramatiq.actor(queue_name="rival")
def job(cid: str) -> None:
    if not hasattr(local, "connection"):
        local.connection = pymysql.connect(**mysql_arguments())
    relocate_blocking(local.connection, cid)


if __name__ == "__main__":
    for name in cids(int(sys.argv[1])):
        job.send(name)
