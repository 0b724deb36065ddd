"""Containers that are killed, paused, replaced, made more and fewer while views come in; the oracle at each end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from tests.containers.composed import SERVICES, Composed, docker, until
from tests.containers.traffic import Traffic, traffic

_CONTENTS = 120
_LEASES_S = 4
"""Longer than the two seconds after which work is taken over."""


@asynccontextmanager
async def under_load(stack: Composed, prefix: str) -> AsyncIterator[Traffic]:
    """Views come in within the block; after it the oracle finds nothing, and no service has stumbled."""
    digests: Mapping[str, str] = await asyncio.to_thread(
        stack.ask, "stock", contents=_CONTENTS, size=50_000, prefix=prefix
    )
    async with traffic(stack, list(digests)) as running:
        await asyncio.sleep(1)
        yield running
        await asyncio.sleep(1)
    word = await asyncio.to_thread(stack.judge, digests, running.counts)
    assert word["relocations"] > _CONTENTS
    assert running.requests > 40
    assert await asyncio.to_thread(stack.errors) == []


async def test_whatever_is_killed_comes_back_and_nothing_is_lost(stack: Composed) -> None:
    """By the kernel, not by `docker kill`: what brings the container back is its restart policy."""
    async with under_load(stack, "killed"):
        for service in (*SERVICES, "redis", "mysql"):
            container = (await asyncio.to_thread(stack.containers, service))[0]
            restarts = int(docker("inspect", "-f", "{{.RestartCount}}", container))
            await asyncio.to_thread(stack.crash, container)
            back = partial(_restarted, container, restarts)
            await asyncio.to_thread(until, back, f"{service} is back and healthy")


def _restarted(container: str, before: int) -> bool:
    health, count = docker("inspect", "-f", "{{.State.Health.Status}} {{.RestartCount}}", container).split()
    return health == "healthy" and int(count) > before


async def test_what_is_paused_is_replaced_by_others_and_does_no_harm_afterwards(stack: Composed) -> None:
    async with under_load(stack, "paused"):
        for service in ("mover", "planner"):
            container = (await asyncio.to_thread(stack.containers, service))[0]
            await asyncio.to_thread(docker, "pause", container)
            await asyncio.sleep(_LEASES_S)
            await asyncio.to_thread(docker, "unpause", container)
        for server in ("redis", "mysql"):
            (container,) = await asyncio.to_thread(stack.containers, server)
            await asyncio.to_thread(docker, "pause", container)
            await asyncio.sleep(2)
            await asyncio.to_thread(docker, "unpause", container)


async def test_movers_become_four_and_one_again_under_load(stack: Composed) -> None:
    await asyncio.to_thread(stack.scale_to, "mover", 1)
    async with under_load(stack, "scaled"):
        await asyncio.to_thread(stack.up, mover=4)
        await asyncio.to_thread(until, lambda: stack.replicas_watched(9102) == 4, "Prometheus reaches four movers")
        await asyncio.to_thread(stack.scale_to, "mover", 1)
        assert len(await asyncio.to_thread(stack.containers, "mover")) == 1
    assert (await asyncio.to_thread(stack.ask, "pace", prefix="scaled"))["movers"] == 4


async def test_every_container_is_replaced_under_load(stack: Composed) -> None:
    """As an upgrade does it: ingest's clients repeat what was not answered, and nothing is counted twice."""
    async with under_load(stack, "rolled") as running:
        for service in (*SERVICES, "redis", "mysql"):
            before = set(await asyncio.to_thread(stack.containers, service))
            await asyncio.to_thread(stack.replace, service)
            assert before.isdisjoint(await asyncio.to_thread(stack.containers, service))
    assert running.repeats > 0
