"""Runs in a container beside the services, for the tests: puts files there, looks at what became of them.

`python -m tests.containers.onlooker VERB`, with a JSON object on standard input, answers with JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from shared.catalog import Connections, Registry
from tests.oracle import Expected, Oracle, find_faults

_ACCOUNTS = Path("/run/accounts")
_BRONZE = Path("/levels/bronze")


def _url(server: str) -> str:
    return (_ACCOUNTS / f"{server}.url").read_text().strip()


async def stock(contents: int, size: int, prefix: str) -> dict[str, str]:
    """New contents on bronze, of random bytes; their digests by cid."""
    digests = {}
    (_BRONZE / prefix).mkdir(exist_ok=True)
    for number in range(contents):
        data = os.urandom(size)
        digests[f"{prefix}-{number}"] = hashlib.sha256(data).hexdigest()
        (_BRONZE / prefix / f"{number}.mp4").write_bytes(data)
    connections = Connections(_url("mysql"))
    try:
        rows = [(f"{prefix}-{number}", f"{prefix}/{number}.mp4") for number in range(contents)]
        assert await Registry(connections).register_many(rows, "bronze") == []
    finally:
        await connections.close()
    return digests


async def judge(digests: dict[str, str], counts: dict[str, int], timeout_s: float = 60) -> dict[str, Any]:
    """The oracle's word once all is settled: `faults`, how many `relocations`, and how many contents by `level`."""
    oracle = Oracle(_url("redis"), _url("mysql"))
    try:
        world = await oracle.settle(timeout_s)
    finally:
        await oracle.close()
    expected = {cid: Expected(digest, counts.get(cid)) for cid, digest in digests.items()}
    levels = [level for level, _ in world.rows.values()]
    return {
        "faults": find_faults(world, expected, dead_allowed=False),
        "relocations": len(world.relocations),
        "levels": {level: levels.count(level) for level in sorted(set(levels))},
    }


async def pace(prefix: str, since: int = 0) -> dict[str, Any]:
    """The relocations of these contents that were planned after `since`, and the time from plan to last commit."""
    connections = Connections(_url("mysql"))
    try:
        async with connections.cursor() as cursor:
            await cursor.execute(
                "SELECT COUNT(*), MAX(committed_at) - MIN(planned_at), COUNT(DISTINCT mover),"
                " GROUP_CONCAT(DISTINCT method), MAX(committed_at) FROM relocations"
                " WHERE cid LIKE %s AND planned_at > %s",
                (f"{prefix}-%", since),
            )
            ((number, took_ms, movers, methods, last),) = await cursor.fetchall()
    finally:
        await connections.close()
    seconds = int(took_ms or 0) / 1000
    return {"relocations": number, "seconds": seconds, "movers": movers, "methods": methods, "last": int(last or 0)}


_VERBS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {"stock": stock, "judge": judge, "pace": pace}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(_VERBS[sys.argv[1]](**json.load(sys.stdin)))))  # noqa: T201  # the answer
