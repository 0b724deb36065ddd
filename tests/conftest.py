"""Real servers for the tests. Each xdist worker has its own Redis and its own database.

In order: TEST_REDIS_URL and TEST_MYSQL_URL; containers, where a Docker engine answers; private servers from the
binaries on this machine. There is always one, or the tests fail: a test that was skipped proves nothing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncmy
import hypothesis
import pytest
import redis

from cli.migrate import migrate, sample_levels
from cli.servers import INSTALL_MYSQL, INSTALL_REDIS, PrivateMySQL, PrivateRedis, find_mysql_server, find_redis_server
from shared.mysql_url import parse_mysql_url
from tests.accounts import Accounts
from tests.streams import Streams, connected

T = TypeVar("T")

# A busy machine is no fault of the code: examples are bounded by their number, not by the clock.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("busy")

REDIS_IMAGE = "redis:8"
MYSQL_IMAGE = "mysql:9.7"
CONTAINER_TIMEOUT_S = 120.0
LEASE_S = 900
"""How long a logical Redis database stays ours after the last test that used it."""


# --- Redis ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis, or a logical database of one, that only this worker uses. See `redis_db` for an empty one."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        with leased_redis_database(given) as url:
            yield url
    elif docker_offers(REDIS_IMAGE):
        with container(REDIS_IMAGE, 6379, ["redis-server", "--appendonly", "yes"]) as (host, port):
            url = f"redis://{host}:{port}/0"
            wait_for(lambda: ping_redis(url), REDIS_IMAGE)
            yield url
    elif find_redis_server():
        with PrivateRedis.start(tmp_path_factory.mktemp("redis")) as server:
            yield server.url
    else:
        pytest.fail(f"no Redis for the tests: set TEST_REDIS_URL, or start Docker, or {INSTALL_REDIS}")


@pytest.fixture
def redis_db(redis_url: str) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    database = redis_database(redis_url)
    if os.environ.get("TEST_REDIS_URL"):
        with redis.Redis.from_url(with_redis_database(redis_url, 0)) as client:
            client.expire(lease_key(database), LEASE_S)
    return redis_url


@pytest.fixture
async def seen(redis_db: str) -> AsyncIterator[Streams]:
    """An empty Redis with the streams and their groups."""
    async with connected(redis_db) as scripts:
        streams = Streams(scripts)
        await streams.make_groups()
        yield streams


@contextmanager
def leased_redis_database(given: str) -> Iterator[str]:
    """One of the logical databases 1-15, flushed; the lease in database 0 keeps other runs out."""
    with redis.Redis.from_url(with_redis_database(given, 0)) as client:
        mine = secrets.token_hex(8)
        free = (n for n in range(1, 16) if client.set(lease_key(n), mine, nx=True, ex=LEASE_S))
        database = next(free, None)
        if database is None:
            pytest.fail(f"all 15 logical databases of TEST_REDIS_URL are in use: wait, or delete {lease_key('*')}")
        url = with_redis_database(given, database)
        try:
            with redis.Redis.from_url(url) as own:
                own.flushdb()
                yield url
                own.flushdb()
        finally:
            if client.get(lease_key(database)) == mine.encode():
                client.delete(lease_key(database))


def lease_key(database: int | str) -> str:
    return f"reshelve:test:{database}"


def redis_database(url: str) -> int:
    return int(urlsplit(url).path.strip("/") or 0)


def with_redis_database(url: str, database: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def ping_redis(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


# --- MySQL ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mysql_server_url(mysql_logins: tuple[str, str]) -> str:
    """A login that may create databases whose names begin with `reshelve_`. The database in it is not for tests."""
    return mysql_logins[0]


@pytest.fixture(scope="session")
def mysql_admin_url(mysql_logins: tuple[str, str]) -> str:
    """A login that may create users, too."""
    return mysql_logins[1]


@pytest.fixture(scope="session")
def mysql_logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    given = os.environ.get("TEST_MYSQL_URL")
    if given:
        yield given, given
    elif docker_offers(MYSQL_IMAGE):
        password = secrets.token_hex(8)
        options = ["--log-bin-trust-function-creators=1"]
        variables = {"MYSQL_ROOT_PASSWORD": password}
        with container(MYSQL_IMAGE, 3306, options, variables) as (host, port):
            url = f"mysql://root:{password}@{host}:{port}/mysql"
            wait_for(lambda: ping_mysql(url), MYSQL_IMAGE)
            yield url, url
    elif find_mysql_server():
        with PrivateMySQL.start(tmp_path_factory.mktemp("mysql")) as server:
            yield server.url, server.admin_url
    else:
        pytest.fail(f"no MySQL for the tests: set TEST_MYSQL_URL, or start Docker, or {INSTALL_MYSQL}")


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    name = f"reshelve_test_{secrets.token_hex(6)}"
    execute(server_url, f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    try:
        yield parse_mysql_url(server_url).url(database=name)
    finally:
        execute(server_url, f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def mysql_url(mysql_server_url: str) -> Iterator[str]:
    """This worker's own database, with the schema in it. See `database` for one in a known state."""
    with new_database(mysql_server_url) as url:
        run_in_thread(migrate(url, None))
        yield url


@pytest.fixture
def bare_database(mysql_server_url: str) -> Iterator[str]:
    """A database without any table, for this test alone."""
    with new_database(mysql_server_url) as url:
        yield url


@pytest.fixture
def level_root(tmp_path: Path) -> Path:
    """Where the sample levels' directories are."""
    root = tmp_path / "levels"
    root.mkdir()
    return root


@pytest.fixture
def database(mysql_url: str, level_root: Path) -> str:
    """The URL of a database with the sample levels, their directories beneath `level_root`, and nothing else."""
    levels = [
        f"('{level.content_level}', {level.min_counts}, {level.max_counts}, '{level.path}')"
        for level in sample_levels(level_root)
    ]
    execute(
        mysql_url,
        "SET FOREIGN_KEY_CHECKS = 0",
        *(f"DELETE FROM {table}" for table in ("drops", "relocations", "update_history", "contents", "level")),
        f"INSERT INTO level (content_level, min_counts, max_counts, path) VALUES {', '.join(levels)}",
    )
    for level in sample_levels(level_root):
        Path(level.path).mkdir()
    return mysql_url


def execute(url: str, *statements: str) -> None:
    """Run the statements on one connection, in one transaction."""

    async def run() -> None:
        connection = await asyncmy.connect(**parse_mysql_url(url).connect_arguments())
        try:
            async with connection.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement)
            await connection.commit()
        finally:
            await connection.ensure_closed()

    run_in_thread(run())


def ping_mysql(url: str) -> bool:
    try:
        execute(url, "SELECT 1")
    except asyncmy.errors.MySQLError:
        return False
    return True


def run_in_thread(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, out of the way of the loop that pytest-asyncio has in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


# --- an account for each service -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def accounts(redis_url: str, mysql_url: str, mysql_admin_url: str) -> Iterator[Accounts]:
    """What each service logs in with, where it may do only what it must: for `Stack`'s `redis_urls`, `mysql_urls`."""
    made = Accounts.named(redis_url, mysql_url)
    try:
        made.make_redis_users(redis_url)
        made.make_mysql_users(mysql_admin_url, execute)
        yield made
    finally:
        made.remove(redis_url, mysql_admin_url, execute)


# --- Docker ---------------------------------------------------------------------------------------------------------


@cache
def docker_answers() -> bool:
    """Whether an engine can be had, within two seconds."""
    with warnings.catch_warnings():
        # Where no engine answers, the SDK leaves a socket open.
        warnings.simplefilter("ignore", ResourceWarning)
        answer = _ping_docker()
        gc.collect()
    return answer


@cache
def docker_offers(image: str) -> bool:
    """Whether an engine answers that has the image or can pull it: one that reaches no registry is as good as none."""
    if not docker_answers():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers' own deprecations, sockets that the SDK leaves open
        offered = _pull(image)
        gc.collect()
    return offered


def _pull(image: str) -> bool:
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415  # slow to import, and needed only here
    from testcontainers.core.config import testcontainers_config as config  # noqa: PLC0415

    client = docker.from_env(timeout=CONTAINER_TIMEOUT_S)
    try:
        for name in [image] if config.ryuk_disabled else [image, config.ryuk_image]:
            try:
                client.images.get(name)
            except docker.errors.ImageNotFound:
                client.images.pull(name)
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()
    return True


def _ping_docker() -> bool:
    import docker  # noqa: PLC0415  # as above

    try:
        client = docker.from_env(timeout=2)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


@contextmanager
def container(
    image: str,
    port: int,
    command: Sequence[str],
    variables: dict[str, str] | None = None,
) -> Iterator[tuple[str, int]]:
    """Where the container's port can be reached. It is removed with us, even when we are killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers' own deprecations are not ours to fix
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        server = DockerContainer(image).with_exposed_ports(port).with_command(" ".join(command))
        for name, value in (variables or {}).items():
            server = server.with_env(name, value)
        server.start()
    try:
        yield server.get_container_host_ip(), int(server.get_exposed_port(port))
    finally:
        server.stop()


def wait_for(answers: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + CONTAINER_TIMEOUT_S
    while not answers():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not answer within {CONTAINER_TIMEOUT_S:.0f} s: see `docker logs`")
        time.sleep(0.2)
