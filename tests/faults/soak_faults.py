"""The faults of the soak, each made for real and over within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncmy
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.mysql_url import parse_mysql_url
from tests.faults.soak_system import Replica, System

_WEIGHTS = {
    "service killed": 10,
    "service stopped for a while": 8,
    "service ended by SIGTERM": 3,
    "redis killed": 3,
    "redis stopped for a while": 2,
    "redis connections cut": 3,
    "mysql killed": 2,
    "mysql stopped for a while": 2,
    "mysql connections cut": 3,
    "gold full": 4,
}


class Faults:
    """Makes a fault a second. Several may be under way at once, but not two on the same process."""

    def __init__(self, system: System, rng: random.Random) -> None:
        self._system = system
        self._rng = rng
        self._busy: set[str] = set()
        self.made: Counter[str] = Counter()
        self._kinds: dict[str, Callable[[], Awaitable[bool]]] = {
            "service killed": self._kill_service,
            "service stopped for a while": self._stop_service,
            "service ended by SIGTERM": self._end_service,
            "redis killed": lambda: self._alone("redis", system.kill_redis),
            "redis stopped for a while": lambda: self._alone("redis", self._stop_redis),
            "redis connections cut": lambda: self._alone("redis", self._cut_redis),
            "mysql killed": lambda: self._alone("mysql", system.kill_mysql),
            "mysql stopped for a while": lambda: self._alone("mysql", self._stop_mysql),
            "mysql connections cut": lambda: self._alone("mysql", self._cut_mysql),
            "gold full": lambda: self._alone("gold", self._fill_gold),
        }
        if not system.split:  # where gold lies on the machine's own disk, that is not to be filled
            del self._kinds["gold full"]

    async def run(self, seconds: float) -> None:
        """For so long; returns when the last fault is over. Raises what made one fail."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.TaskGroup() as group:
            while loop.time() < end:
                self._system.look_after()
                kinds = list(self._kinds)
                (kind,) = self._rng.choices(kinds, [_WEIGHTS[kind] for kind in kinds])
                group.create_task(self._make(kind))
                await asyncio.sleep(self._rng.uniform(0.8, 1.2))
        self._system.look_after()

    async def _make(self, kind: str) -> None:
        if await self._kinds[kind]():
            self.made[kind] += 1

    async def _alone(self, name: str, fault: Callable[[], Awaitable[None]]) -> bool:
        """False where the target has a fault already."""
        if name in self._busy:
            return False
        self._busy.add(name)
        try:
            await fault()
        finally:
            self._busy.discard(name)
        return True

    async def _on_service(self, fault: Callable[[Replica], Awaitable[None]]) -> bool:
        free = [replica for replica in self._system.replicas if not replica.busy]
        if not free:
            return False
        replica = self._rng.choice(free)
        replica.busy = True
        try:
            await fault(replica)
        finally:
            replica.busy = False
        return True

    async def _kill_service(self) -> bool:
        return await self._on_service(self._kill)

    async def _stop_service(self) -> bool:
        return await self._on_service(lambda replica: self._pause(replica.service.process.pid, 3))

    async def _end_service(self) -> bool:
        return await self._on_service(self._end)

    async def _kill(self, replica: Replica) -> None:
        await asyncio.to_thread(replica.service.kill)
        self._system.restart(replica)

    async def _end(self, replica: Replica) -> None:
        code = await asyncio.to_thread(replica.service.stop, 30)
        # A process that was told to end before it could listen to signals ends by the signal.
        if code not in {0, -signal.SIGTERM}:
            self._system.found.append(f"{replica.name} ended with {code} after SIGTERM")
        self._system.restart(replica)

    async def _pause(self, pid: int, longest_s: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._rng.uniform(0.2, longest_s))
        finally:
            os.kill(pid, signal.SIGCONT)

    async def _stop_redis(self) -> None:
        await self._pause(self._system.redis.pid, 2)

    async def _stop_mysql(self) -> None:
        await self._pause(self._system.mysql.pid, 2)

    async def _cut_redis(self) -> None:
        redis: Any = Redis.from_url(self._system.redis.url, protocol=2)
        try:
            with contextlib.suppress(RedisError):
                await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        finally:
            await redis.aclose()

    async def _cut_mysql(self) -> None:
        connection = await asyncmy.connect(
            autocommit=True, **parse_mysql_url(self._system.mysql.url).connect_arguments()
        )
        try:
            async with connection.cursor() as cursor:
                await cursor.execute("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()")
                for (thread,) in await cursor.fetchall():
                    with contextlib.suppress(asyncmy.errors.MySQLError):  # gone by itself meanwhile
                        await cursor.execute(f"KILL {thread}")
        finally:
            connection.close()

    async def _fill_gold(self) -> None:
        filler = self._system.levels / "gold" / "filler"
        try:
            await asyncio.to_thread(_fill, filler)
            await asyncio.sleep(self._rng.uniform(0.5, 2.5))
        finally:
            filler.unlink(missing_ok=True)


def _fill(filler: os.PathLike[str]) -> None:
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:  # noqa: PTH123
        while True:
            file.write(bytes(64 * 1024))
