"""Redis and MySQL over TLS, through their URLs: real servers, certificates of our own CA."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from cli import private_mysql, private_redis
from cli.migrate import migrate
from cli.servers import PrivateMySQL, PrivateRedis, find_redis_server
from shared.catalog import Catalog, CatalogDownError, Connections
from shared.errors import InvalidError, StopServiceError
from shared.redis_client import connect
from tests.certificates import Certificates, make_certificates
from tests.consumers import until
from tests.descriptors import open_descriptors
from tests.oracle import Expected, Oracle, sha256
from tests.ports import free_port
from tests.stack import SERVICES, Stack


@dataclass(frozen=True)
class Places:
    """URLs without parameters, and the CA that makes them work."""

    redis: str
    mysql: str
    ca: Path
    other_ca: Path

    @property
    def redis_url(self) -> str:
        return f"{self.redis}?ssl_ca_certs={self.ca}"

    @property
    def mysql_url(self) -> str:
        return f"{self.mysql}?ssl=true&ssl_ca={self.ca}"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    home = tmp_path_factory.mktemp("tls")
    certificates = make_certificates(home / "certificates")
    other = make_certificates(home / "other")
    with pytest.MonkeyPatch.context() as patch:
        redis, redis_port = _tls_redis(home, certificates, patch)
        with redis, _tls_mysql(home, certificates, patch) as mysql:
            redis_url = redis.url.replace("redis://:", "rediss://default:").replace(
                f":{redis.port}/", f":{redis_port}/"
            )
            yield Places(redis_url, mysql.url, certificates.ca, other.ca)


def _tls_redis(home: Path, certificates: Certificates, patch: pytest.MonkeyPatch) -> tuple[PrivateRedis, int]:
    """A private Redis with a second port, for TLS alone. The server in the wheel may have been built without."""
    port, plain = free_port(), private_redis._config
    options = {
        "tls-port": port,
        "tls-cert-file": certificates.certificate,
        "tls-key-file": certificates.key,
        "tls-ca-cert-file": certificates.ca,
        "tls-auth-clients": "no",
    }
    text = "".join(f"{name} {value}\n" for name, value in options.items())
    patch.setattr(private_redis, "_config", lambda *arguments: plain(*arguments) + text)
    for number, binary in enumerate(_redis_servers(home)):
        patch.setattr(private_redis, "find_redis_server", lambda chosen=binary: chosen)
        try:
            return PrivateRedis.start(home / f"redis-{number}"), port
        except StopServiceError:
            continue
    pytest.fail("no Redis server with TLS on this machine: apt-get install redis-tools")


def _redis_servers(home: Path) -> list[Path]:
    """What might be one; Debian's redis-tools has the server too: the program goes by the name it is called by."""
    found = [find_redis_server(), *(shutil.which(name) for name in ("redis-server", "valkey-server"))]
    if (checker := shutil.which("redis-check-rdb")) is not None:
        named = home / "redis-server"
        named.symlink_to(checker)
        found.append(named)
    return list(dict.fromkeys(Path(path) for path in found if path))


def _tls_mysql(home: Path, certificates: Certificates, patch: pytest.MonkeyPatch) -> PrivateMySQL:
    """A private server that takes nobody in without TLS."""
    plain = private_mysql._command
    options = [
        f"--ssl-ca={certificates.ca}",
        f"--ssl-cert={certificates.certificate}",
        f"--ssl-key={certificates.key}",
        "--require-secure-transport=ON",
    ]
    patch.setattr(private_mysql, "_command", lambda *arguments: [*plain(*arguments), *options])
    return PrivateMySQL.start(home / "mysql")


async def _ping_redis(url: str) -> object:
    async with _closed_to_the_end():
        client = connect(url)
        try:
            await client.set("reshelve:tls", "1")
            return await client.get("reshelve:tls")
        finally:
            await client.aclose()


async def _ping_mysql(url: str) -> None:
    async with _closed_to_the_end():
        connections = Connections(url)
        try:
            await Catalog(connections).ping()
        finally:
            await connections.close()


@asynccontextmanager
async def _closed_to_the_end() -> AsyncIterator[None]:
    """Where a login is refused, neither client waits for the end of TLS.

    If the loop ended before it, the garbage collector would find the socket, and complain in whatever test it runs.
    """

    async def are_closed() -> bool:
        return open_descriptors() <= before

    before = open_descriptors()
    try:
        yield
    finally:
        await until(are_closed)


async def test_redis_answers_over_tls_to_who_has_the_password(places: Places) -> None:
    assert await _ping_redis(places.redis_url) == b"1"
    wrong = places.redis_url.replace("rediss://default:", "rediss://default:x")
    with pytest.raises(AuthenticationError):
        await _ping_redis(wrong)


async def test_a_redis_that_the_ca_does_not_vouch_for_gets_no_password(places: Places) -> None:
    for url in (places.redis, f"{places.redis}?ssl_ca_certs={places.other_ca}"):
        with pytest.raises(RedisConnectionError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
            await _ping_redis(url)
    with pytest.raises(RedisConnectionError, match=r"(?i)hostname|ip address mismatch"):
        await _ping_redis(places.redis_url.replace("@127.0.0.1:", "@localhost:"))


async def test_a_redis_that_speaks_tls_takes_no_plain_text(places: Places) -> None:
    with pytest.raises(RedisConnectionError):
        await _ping_redis(places.redis.replace("rediss://", "redis://"))


async def test_mysql_answers_over_tls_to_who_has_the_password(places: Places) -> None:
    await _ping_mysql(places.mysql_url)
    for wrong in (places.mysql, places.mysql_url.replace("reshelve:", "reshelve:x")):
        with pytest.raises(CatalogDownError):
            await _ping_mysql(wrong)


async def test_a_mysql_that_the_ca_does_not_vouch_for_gets_no_password(places: Places) -> None:
    for parameters in ("ssl=true", f"ssl_ca={places.other_ca}"):
        with pytest.raises(CatalogDownError, match=r"(?i)certificate.verify.failed"):
            await _ping_mysql(f"{places.mysql}?{parameters}")
    with pytest.raises(CatalogDownError, match=r"(?i)hostname|mismatch"):
        await _ping_mysql(places.mysql_url.replace("@127.0.0.1:", "@localhost:"))


async def test_a_ca_that_is_not_there_is_named(places: Places, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"ssl_ca .*none.pem.* cannot be used"):
        await _ping_mysql(f"{places.mysql}?ssl_ca={tmp_path / 'none.pem'}")


async def test_a_file_is_relocated_with_both_servers_behind_tls(
    places: Places, tmp_path: Path, level_root: Path
) -> None:
    data = os.urandom(10_000)
    await migrate(places.mysql_url, level_root)
    (level_root / "bronze" / "g.mp4").write_bytes(data)
    stack = Stack(places.redis_url, places.mysql_url, tmp_path)
    oracle = Oracle(places.redis_url, places.mysql_url)
    try:
        stack.start(*SERVICES)
        await stack.ready()
        async with aiohttp.ClientSession(stack.http) as session:
            async with session.post("/v1/contents", json={"cid": "7", "filename": "g.mp4"}) as answer:
                assert answer.status == 201, await answer.text()
            async with session.post("/v1/views", json={"cid": "7", "count": 1964}) as answer:
                assert answer.status == 202, await answer.text()
        world = await oracle.judge({"7": Expected(sha256(data), 1964)})
        assert world.rows["7"][0] == "silver"
        assert stack.stop() == {name: [0] for name in SERVICES}
        assert stack.errors() == []
    finally:
        await oracle.close()
        stack.stop()
