"""A small system at rest, with everything in it that can be made wrong, and the audit of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncmy
import orjson
import pytest

from cli.audit.command import Wanted, audit
from shared.keys import META
from shared.moveid import new_move_id
from shared.mysql_url import parse_mysql_url
from tests.streams import PARTITIONS, Streams, connected

LEVELS = {"bronze": 500, "silver": 1500, "gold": 2500}
"""A count that belongs on each."""


@dataclass(frozen=True)
class Audited:
    """What one audit said."""

    code: int
    findings: list[dict[str, Any]]
    repairs: list[dict[str, Any]]
    would: list[dict[str, Any]]
    error: str

    @property
    def codes(self) -> list[str]:
        return [finding["code"] for finding in self.findings]


@dataclass
class World:
    """Contents that are settled until somebody changes that."""

    root: Path
    streams: Streams
    mysql_url: str
    capsys: pytest.CaptureFixture[str]
    cid: str = "7"
    """Whom the next trouble is made for."""

    def file(self, cid: str, level: str) -> Path:
        return self.root / level / f"dir/{cid}.mp4"

    def put(self, cid: str, level: str, data: bytes = b"film") -> Path:
        file = self.file(cid, level)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    async def settle(self, cid: str, level: str = "silver") -> None:
        """A row, a state and a file."""
        self.put(cid, level)
        await self.execute(
            f"INSERT INTO contents (cid, content_level, filename) VALUES ('{cid}', '{level}', 'dir/{cid}.mp4')"
        )
        await self.state(cid, level=level, count=LEVELS[level], status="idle")

    async def state(self, cid: str, level: str = "silver", **fields: str | int) -> None:
        """The state; at rest with a band for the level."""
        known: dict[str, str | int] = {"level": level, "count": LEVELS[level], "filename": f"dir/{cid}.mp4", "at": 5}
        known["version"] = 3
        if fields.get("status", "idle") == "idle":
            known |= {"lo": LEVELS[level] - 500, "hi": LEVELS[level] + 500}
        await self.streams.redis.hdel(self.streams.scripts.of(cid).counts, cid)
        await self.streams.put_content(cid, **(known | fields))

    async def execute(self, *statements: str) -> list[list[tuple[Any, ...]]]:
        """The rows of each statement."""
        connection = await asyncmy.connect(**parse_mysql_url(self.mysql_url).connect_arguments())
        rows = []
        try:
            async with connection.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement)
                    rows.append(list(await cursor.fetchall()))
            await connection.commit()
        finally:
            await connection.ensure_closed()
        return rows

    async def relocated(self, cid: str, size: int) -> None:
        """A row of history in which the file had that size."""
        await self.execute(
            "INSERT INTO relocations (move_id, cid, from_level, to_level, `count`, why, bytes, digest, method, mover, "
            f"attempts, planned_at, placed_at, committed_at) VALUES ('{new_move_id()}', '{cid}', 'bronze', 'silver', "
            f"1500, '', {size}, '', 'link', 'm', 1, 1, 2, 3)"
        )

    async def audit(
        self, *, repair: bool = False, dry_run: bool = False, max_share: float = 1, min_age_s: float = 0
    ) -> Audited:
        self.capsys.readouterr()
        wanted = Wanted(repair, dry_run, max_share, 100_000, min_age_s, as_json=True)
        code = await audit(wanted, self.root)
        said = self.capsys.readouterr()
        lines = [orjson.loads(line) for line in said.out.splitlines()]
        kinds = {
            kind: [line for line in lines if line["kind"] == kind] for kind in ("finding", "repair", "would repair")
        }
        return Audited(code, kinds["finding"], kinds["repair"], kinds["would repair"], said.err)

    async def everything(self) -> dict[str, Any]:
        """All there is on disk, in Redis and in MySQL, such that any change shows."""
        seen = await asyncio.to_thread(self.disk)
        for key in sorted(await self.streams.redis.keys("*")):
            seen[key.decode()] = (await self.streams.redis.dump(key), await self.streams.redis.pttl(key) >= 0)
        tables = ("level", "contents", "update_history", "relocations")
        for table, rows in zip(tables, await self.execute(*(f"SELECT * FROM {name}" for name in tables)), strict=True):
            seen[table] = sorted(rows)
        return seen

    def disk(self) -> dict[str, Any]:
        """Every name below the levels."""
        return {str(path): _identity(path) for path in sorted(self.root.rglob("*"))}


@asynccontextmanager
async def at_rest(
    redis_url: str, mysql_url: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[World]:
    """Two settled contents on silver: `7`, to be made trouble for, and `bystander`."""
    monkeypatch.setenv("RESHELVE_REDIS_URL", redis_url)
    monkeypatch.setenv("RESHELVE_MYSQL_URL", mysql_url)
    monkeypatch.delenv("RESHELVE_PARTITIONS", raising=False)
    async with connected(redis_url) as scripts:
        world = World(root, Streams(scripts), mysql_url, capsys)
        await world.streams.redis.hset(META, "partitions", str(PARTITIONS))
        await world.streams.make_groups()
        for cid in ("7", "bystander"):
            await world.settle(cid)
        yield world


def _identity(path: Path) -> tuple[Any, ...]:
    found = path.lstat()
    data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return (found.st_ino, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns, data)
