"""Stopping: within a bound, with exit code 0, and what was in hand is taken over at once.

Seen to fail: exit code -15 without `StopSignals.end`, the second signal without effect without `StopSignals.bound`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from shared.catalog import Connections, Registry
from shared.names import LEVEL_MARKER
from tests.conftest import execute
from tests.consumers import until
from tests.oracle import Oracle
from tests.stack import SERVICES, Service, Stack

_LEASE_MS = 60_000
"""Nothing in here waits for a lease to run out."""
_BOUND_S = 10 + 3
"""The bound, and what a service that was hurried by it may still take. Alone on its cores an idle one takes 0.2 s."""
_GIBI = 1 << 30


@pytest.fixture
async def stack(redis_db: str, database: str, tmp_path: Path) -> AsyncIterator[Stack]:
    prepared = Stack(redis_db, database, tmp_path, {"RESHELVE_LEASE_MS": str(_LEASE_MS)})
    try:
        yield prepared
        assert prepared.errors() == []
        for service in prepared.services:
            text = service.log.read_text()
            assert "destroyed" not in text, text
            assert "Warning" not in text, text
    finally:
        prepared.stop()


@pytest.fixture
async def oracle(redis_db: str, database: str) -> AsyncIterator[Oracle]:
    looking = Oracle(redis_db, database)
    yield looking
    await looking.close()


@pytest.fixture
def far(database: str) -> Iterator[Path]:
    """Bronze on another file system than the rest."""
    directory = Path(tempfile.mkdtemp(prefix="reshelve-", dir="/dev/shm"))  # the other one
    execute(database, f"UPDATE level SET path = '{directory}' WHERE content_level = 'bronze'")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


async def register(database: str, cids: list[str]) -> None:
    connections = Connections(database)
    try:
        await Registry(connections).register_many([(cid, f"{cid}.mp4") for cid in cids], "bronze")
    finally:
        await connections.close()


async def post(stack: Stack, cids: list[str], count: int = 1500) -> None:
    async with aiohttp.ClientSession() as session:
        views = [{"cid": cid, "count": count} for cid in cids]
        async with session.post(f"{stack.http}/v1/views", json=views) as answer:
            assert answer.status == 202, await answer.text()


def stop_all(services: list[Service], within_s: float) -> None:
    """SIGTERM to all at once."""
    began = time.monotonic()
    for service in services:
        service.process.terminate()
    codes = {service.name: service.process.wait(30) for service in services}
    assert codes == dict.fromkeys(codes, 0)
    assert time.monotonic() - began < within_s


async def test_idle_services_stop_at_once(stack: Stack) -> None:
    services = stack.start(*SERVICES)
    await stack.ready(90)
    stop_all(services, _BOUND_S)


async def test_signals_that_keep_coming_do_not_change_the_exit_code(stack: Stack) -> None:
    """Also one between the end of the loop and the end of the process."""
    services = stack.start(*SERVICES)
    await stack.ready(90)
    for service in services:
        service.process.terminate()
        began = time.monotonic()
        while service.process.poll() is None:
            service.process.terminate()
            assert time.monotonic() - began < _BOUND_S
            await asyncio.sleep(0.005)
        assert (service.name, service.process.returncode) == (service.name, 0)


async def long_copy(stack: Stack, oracle: Oracle, database: str, far: Path, silver: Path) -> Service:
    """The mover that is in the middle of it."""
    with (far / "big.mp4").open("wb") as file:
        os.truncate(file.fileno(), 8 * _GIBI)  # sparse: it costs no memory
    (far / LEVEL_MARKER).touch()
    await register(database, ["big"])
    (mover,) = stack.start("mover")
    stack.start("ingest", "planner")
    await stack.ready(90)
    await post(stack, ["big"])
    await until(lambda: copying(silver), 20)
    assert (await oracle.look()).states["big"]["status"] == "moving"
    return mover


async def copying(silver: Path) -> bool:
    return await asyncio.to_thread(lambda: any(silver.glob(".reshelve.0*")))


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_long_copy_is_handed_back_at_once(  # noqa: PLR0917  # fixtures
    stack: Stack, oracle: Oracle, database: str, far: Path, level_root: Path, signals: int
) -> None:
    silver = level_root / "silver"
    mover = await long_copy(stack, oracle, database, far, silver)
    (heir,) = stack.start("mover")
    await stack.ready(90, [heir])
    before = (await oracle.look()).states["big"]
    began = time.monotonic()
    for _ in range(signals):
        mover.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.02)

    async def taken_over() -> bool:
        state = (await oracle.look()).states["big"]
        return state.get("worker_id") not in {None, before["worker_id"]}

    await until(taken_over, 10)
    assert await asyncio.to_thread(mover.process.wait, 10) == 0
    assert time.monotonic() - began < 10
    # Not one try of the content's is used up by our restarts: it can be handed back any number of times.
    state = (await oracle.look()).states["big"]
    assert int(state["attempt"]) == int(before["attempt"]) + 1
    stop_all([service for name in SERVICES for service in stack.named(name)], _BOUND_S)
    assert list(silver.glob("big*")) == []
    assert (far / "big.mp4").stat().st_size == 8 * _GIBI
