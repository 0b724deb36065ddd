"""Servers that may be killed, and a system on them, for one module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from cli.migrate import migrate, sample_levels
from tests.accounts import Accounts
from tests.conftest import execute, run_in_thread
from tests.faults.floor import Floor
from tests.faults.house import SETTINGS, House
from tests.faults.servers import Servers
from tests.stack import SERVICES, Stack


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A private Redis and MySQL; whoever kills one brings it back."""
    with Servers.running(tmp_path_factory.mktemp("servers")) as running:
        yield running


def logging_in(accounts: Accounts, redis_url: str, mysql_url: str, logs: Path) -> Stack:
    """Each service may do what it must, and no more; the tests look with the URLs that may do everything."""
    return Stack(redis_url, mysql_url, logs, SETTINGS, redis_urls=accounts.redis_urls, mysql_urls=accounts.mysql_urls)


@pytest.fixture(scope="module")
def module_house(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    level_root = tmp_path_factory.mktemp("levels")
    run_in_thread(migrate(servers.mysql.url, level_root))
    accounts = servers.accounts
    stack = logging_in(accounts, servers.redis.url, servers.mysql.url, tmp_path_factory.mktemp("logs"))
    try:
        yield House(stack, level_root)
        codes = stack.stop()
        assert codes == {name: [0] * len(ended) for name, ended in codes.items()}
        assert stack.errors() == []
        assert accounts.denials(servers.redis.url) == []
    finally:
        stack.stop()


@pytest.fixture
async def house(module_house: House) -> AsyncIterator[House]:
    """All four services run and are ready; none of them ends by itself."""
    stack = module_house.stack
    await module_house.restart(*(name for name in SERVICES if not stack.named(name)))
    yield module_house
    assert {name for name in SERVICES if stack.named(name)} == set(SERVICES), "a service has ended by itself"


@pytest.fixture(scope="module")
def module_floor(
    redis_url: str, mysql_url: str, accounts: Accounts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Floor]:
    """Silver lies in the machine's shared memory, which is a filesystem of its own."""
    home = tmp_path_factory.mktemp("floor")
    silver = Path(tempfile.mkdtemp(prefix="reshelve-silver-", dir="/dev/shm"))
    paths = {"bronze": home / "bronze", "silver": silver, "gold": home / "gold"}
    rows = [
        f"('{level.content_level}', {level.min_counts}, {level.max_counts}, '{paths[level.content_level]}')"
        for level in sample_levels(home)
    ]
    for path in paths.values():
        path.mkdir(exist_ok=True)
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    execute(
        mysql_url,
        "SET FOREIGN_KEY_CHECKS = 0",
        *(f"DELETE FROM {table}" for table in ("relocations", "update_history", "contents", "level")),
        f"INSERT INTO level (content_level, min_counts, max_counts, path) VALUES {', '.join(rows)}",
    )
    stack = logging_in(accounts, redis_url, mysql_url, tmp_path_factory.mktemp("logs"))
    try:
        yield Floor(stack, home, paths=paths)
        assert stack.errors() == []
    finally:
        stack.stop()
        shutil.rmtree(silver)


@pytest.fixture
async def floor(module_floor: Floor) -> AsyncIterator[Floor]:
    """Everything but the mover runs and is ready."""
    stack = module_floor.stack
    stack.start(*(name for name in SERVICES if name != "mover" and not stack.named(name)))
    await stack.ready()
    yield module_floor
    await module_floor.forget()
