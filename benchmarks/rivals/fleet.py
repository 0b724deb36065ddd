"""Runs the rivals: queue the jobs, start two worker processes, look whether every job was done."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.staging import cids, make_files
from benchmarks.system import System

_PROJECT = Path(__file__).resolve().parent.parent.parent
_TABLE = """
CREATE TABLE jobs (
    cid           VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    content_level VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    update_time   DATETIME(3)
) ENGINE=InnoDB
"""
"""No trigger, no history, no second index: what a rival's job has to change is as little as can be."""
_DONE = "SELECT COUNT(*) FROM jobs WHERE content_level = 'silver'"
_TOOK = "SELECT TIMESTAMPDIFF(MICROSECOND, MIN(update_time), MAX(update_time)) / 1e6 FROM jobs"
_LOOK_S = 0.25
_LIMIT_S = 60.0


@dataclass(frozen=True)
class Rival:
    """`commands` make two worker processes; `share` of the jobs is enough to measure it by."""

    name: str
    module: str
    commands: Sequence[Sequence[str]]
    settings: str
    environment: str = ".rivals"
    share: float = 1.0


_APP = "benchmarks.rivals."
RIVALS = (
    Rival(
        "taskiq",
        "taskiq_app",
        [
            [
                *("taskiq", "worker", _APP + "taskiq_app:broker", "--workers", "2"),
                *("--max-async-tasks", "16", "--no-parse", "--log-level", "WARNING"),
            ]
        ],
        "RedisStreamBroker, 2 workers × 16 tasks, uvloop, asyncmy",
    ),
    Rival(
        "dramatiq",
        "dramatiq_app",
        [["dramatiq", _APP + "dramatiq_app", "--processes", "2", "--threads", "8"]],
        "Redis, 2 processes × 8 threads, pymysql",
    ),
    Rival(
        "FastStream",
        "faststream_app",
        # Its own --workers writes no log of a worker that dies; two commands are two processes just as well.
        [["faststream", "run", _APP + "faststream_app:app"]] * 2,
        "Redis streams, 2 processes × 16 workers, uvloop, asyncmy",
    ),
    Rival(
        "Celery",
        "celery_app",
        [
            [
                *("celery", "-A", _APP + "celery_app", "worker", "--concurrency", "2", "--loglevel", "WARNING"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ]
        ],
        "Redis, prefork of 2, prefetch 128, pymysql",
        share=0.35,
    ),
    Rival(
        "arq",
        "arq_app",
        [["arq", _APP + "arq_app.WorkerSettings"]] * 2,
        "2 processes × 16 jobs, polls every 10 ms, uvloop, asyncmy",
        environment=".rivals-arq",
        share=0.35,
    ),
)


async def jobs_per_s(rival: Rival, system: System, directory: Path, jobs: int) -> float:
    """From the first to the last UPDATE. Raises RuntimeError where a job was not done, or not within a minute."""
    jobs = max(10, round(jobs * rival.share))
    source, target = directory / "bronze", directory / "silver"
    make_files(source, cids(jobs), 4096)
    target.mkdir()
    await system.query(_TABLE)
    # One statement a thousand rows: the driver joins them.
    async with system.connection.cursor() as cursor:
        await cursor.executemany("INSERT INTO jobs VALUES (%s, 'bronze', NULL)", [(cid,) for cid in cids(jobs)])
    environment = os.environ | {
        "PYTHONPATH": str(_PROJECT),
        "RIVAL_REDIS_URL": system.servers.redis.url,
        "RIVAL_MYSQL_URL": system.mysql_url,
        "RIVAL_SOURCE": str(source),
        "RIVAL_TARGET": str(target),
    }
    binaries = _PROJECT / rival.environment / "bin"
    queueing = [str(binaries / "python"), "-m", _APP + rival.module, str(jobs)]
    subprocess.run(queueing, check=True, env=environment, cwd=directory)
    log = directory / "rival.log"
    with _running(rival, binaries, environment, log):
        await _all_done(rival, system, jobs, log)
    moved, left = len(os.listdir(target)), len(os.listdir(source))  # noqa: PTH208  # names are enough
    if (moved, left) != (jobs, 0):
        raise RuntimeError(f"{rival.name} moved {moved} of {jobs} files, {left} are left")
    ((seconds,),) = await system.query(_TOOK)
    return (jobs - 1) / float(seconds)


async def _all_done(rival: Rival, system: System, jobs: int, log: Path) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while True:
        ((done,),) = await system.query(_DONE)
        if done == jobs:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{rival.name} did {done} of {jobs} jobs:\n{log.read_text()[-2000:]}")
        time.sleep(_LOOK_S)


@contextmanager
def _running(rival: Rival, binaries: Path, environment: dict[str, str], log: Path) -> Iterator[None]:
    """The workers in process groups of their own, which end with this block."""
    with log.open("wb") as out:
        started = [
            subprocess.Popen(
                [str(binaries / command[0]), *command[1:]],
                env=environment,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            for command in rival.commands
        ]
    try:
        yield
    finally:
        for process in started:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        # Whatever of its group is left: some leave their children behind.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
