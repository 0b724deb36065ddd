"""What stands beside the rows that need servers only: what Redis, aiohttp, orjson and MySQL do by themselves."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from urllib.parse import urlsplit

import orjson

from benchmarks.ingest_load import wait_for_port
from benchmarks.staging import cids, register
from benchmarks.system import HOST, Servers, System
from cli.spawn import dying_with_us
from tests.ports import free_port

_CONTENTS = 1_000_000
_BATCH = 500

_BARE = """
import asyncio, sys
import uvloop
from aiohttp import web

async def handle(request):
    await request.read()
    return web.Response(status=202)

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
app = web.Application()
app.router.add_post("/v1/views", handle)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=uvloop.new_event_loop())
"""
"""On uvloop, as ingest is, so that the event loop is no part of the difference."""

_BY_HAND = """
UPDATE contents c JOIN JSON_TABLE(%s, '$[*]' COLUMNS (
  cid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]'
)) AS p ON p.cid = c.cid
SET c.content_level = %s
"""


def redis_benchmark(servers: Servers, requests: int, *command: str) -> float:
    """Requests/s of 50 connections with 100 commands in flight on each. Raises RuntimeError where it is missing."""
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        raise RuntimeError("redis-benchmark is missing: apt-get install redis-tools")
    address = urlsplit(servers.redis.url)
    where = ["-h", HOST, "-p", str(address.port), "-a", address.password or ""]
    options = ["-P", "100", "-n", str(max(requests, 50 * 100)), "-r", str(_CONTENTS), "--csv"]
    done = subprocess.run([program, *where, *options, *command], capture_output=True, text=True, check=True)
    # A header from Redis 7 on; the figures are in the last line.
    return float(list(csv.reader(io.StringIO(done.stdout)))[-1][1])


@contextmanager
def bare_aiohttp() -> Iterator[int]:
    """The port of a handler that reads the body and answers 202."""
    port = free_port()
    with subprocess.Popen(dying_with_us([sys.executable, "-c", _BARE, str(port)])) as process:
        try:
            wait_for_port(port)
            yield port
        finally:
            process.terminate()


def parsed_per_s(bodies: Sequence[bytes], seconds: float) -> float:
    """Lines/s that `orjson.loads` reads in a loop, on one core."""
    lines, supply = 0, cycle(bodies)
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for each in next(supply).split(b"\n"):
            orjson.loads(each)
            lines += 1
    return lines / took


async def changed_by_hand_per_s(system: System, number: int) -> float:
    """Rows/s whose level 500-row statements change, each committed, one connection; the trigger writes the history."""
    names = sorted(cids(number))
    await register(system, names)
    batches = [orjson.dumps([[cid] for cid in names[at : at + _BATCH]]).decode() for at in range(0, number, _BATCH)]
    began = time.perf_counter()
    for batch in batches:
        await system.query(_BY_HAND, (batch, "silver"))
    return number / (time.perf_counter() - began)
