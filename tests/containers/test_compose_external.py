"""The stack with a Redis and a MySQL that somebody else runs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.containers.composed import COMPOSE, Composed, composed, docker, until
from tests.faults.house import until as until_async

_PASSWORD = secrets.token_hex(8)


@pytest.fixture
def network() -> Iterator[str]:
    """A network with both servers on it, which know nothing of compose."""
    name = f"reshelve-test-{secrets.token_hex(4)}"
    docker("network", "create", name)
    run = ("run", "-d", "--rm", "--network", name)
    redis = ("redis:8", "redis-server", "--requirepass", _PASSWORD, "--appendonly", "yes", "--appendfsync", "always")
    mysql = ("-e", f"MYSQL_ROOT_PASSWORD={_PASSWORD}", "-e", "MYSQL_DATABASE=media", "mysql:9.7")
    started = []
    try:
        started.append(docker(*run, "--network-alias=far-redis", *redis).strip())
        started.append(docker(*run, "--network-alias=far-mysql", *mysql, "--log-bin-trust-function-creators=1").strip())
        until(lambda: mysql_listens(started[1]), "MySQL listens")
        yield name
    finally:
        if started:
            docker("rm", "--force", "--volumes", *started)
        docker("network", "rm", name)


def mysql_listens(container: str) -> bool:
    try:
        docker("exec", container, "mysqladmin", "ping", "--silent", "--host=127.0.0.1")
    except AssertionError:
        return False
    return True


@pytest.fixture
def stack(checkout: Path, image: str, network: str, tmp_path: Path) -> Iterator[Composed]:
    urls = {
        "redis": f"redis://:{_PASSWORD}@far-redis:6379/0",
        "mysql": f"mysql://root:{_PASSWORD}@far-mysql:3306/media",
    }
    settings = {"RESHELVE_TEST_NETWORK": network}
    for server, url in urls.items():
        file = tmp_path / f"{server}.url"
        file.write_text(url)
        file.chmod(0o644)
        settings[f"RESHELVE_{server.upper()}_URL_FILE"] = str(file)
    files = (COMPOSE, "deploy/compose/external.yml", "tests/containers/outside.yml")
    with composed(checkout, image, *files, **settings) as project:
        project.up()
        yield project


async def test_files_move_with_servers_that_run_elsewhere(stack: Composed) -> None:
    assert await asyncio.to_thread(stack.containers, "redis") == []
    make = "head -c 1000 /dev/urandom > /levels/bronze/g.mp4"
    await asyncio.to_thread(stack.compose, "exec", "-T", "mover", "sh", "-c", make)
    headers = {"Authorization": f"Bearer {await asyncio.to_thread(stack.token)}"}
    async with aiohttp.ClientSession(stack.http, headers=headers) as session:
        async with session.post("/v1/contents", json={"cid": "7", "filename": "g.mp4"}) as answer:
            assert answer.status == 201, await answer.text()
        async with session.post("/v1/views", json=[{"cid": "7", "count": 1964}]) as answer:
            assert answer.status == 202, await answer.text()

        async def rests_on_silver() -> bool:
            async with session.get("/v1/contents/7") as answer:
                content = await answer.json()
            return (content["level"], content["status"]) == ("silver", "idle")

        await until_async(rests_on_silver, "the file is on silver")
    assert await asyncio.to_thread(stack.errors) == []
