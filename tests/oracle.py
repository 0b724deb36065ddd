"""The oracle: checks the guarantees G1-G8 from outside, by looking at MySQL, Redis and the disk.

It shares no code with the services beyond the names of keys and the rule which level a count belongs to.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncmy
import orjson
from redis.asyncio import Redis, RedisCluster

from shared.keys import META, PartitionKeys, StreamName
from shared.mysql_url import parse_mysql_url
from tests.streams import counted

_STREAMS: tuple[StreamName, ...] = ("moves", "placed", "retires")


def redis_at(url: str) -> Any:
    """A client by redis-py alone, also for a cluster: what is judged must not be seen through its own eyes."""
    if "+cluster://" in url:
        return RedisCluster.from_url(url.replace("+cluster", "").split(",")[0], protocol=2)
    return Redis.from_url(url, protocol=2)


@dataclass(frozen=True)
class Expected:
    """What must hold of a content whatever happened: its bytes, and its count where it is known exactly."""

    sha256: str
    count: int | None = None


def sha256(data: bytes) -> str:
    """Of a content's bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class World:
    """One look at everything."""

    levels: list[tuple[str, int, int, str]]
    rows: dict[str, tuple[str, str]]
    relocations: list[tuple[str, str, str, str]]
    changes: list[tuple[str, str, str]]
    states: dict[str, dict[str, str]]
    open_entries: Counter[str]
    dead: dict[str, str]
    backlog: dict[str, int]

    def path(self, level: str) -> Path:
        return Path(next(path for name, _, _, path in self.levels if name == level))

    def level_for(self, count: int) -> str:
        ordered = sorted(self.levels, key=lambda level: level[1])
        return next((name for name, _, high, _ in ordered if count <= high), ordered[-1][0])


class Oracle:
    """Looks at one Redis, or a cluster, and one MySQL database."""

    def __init__(self, redis_url: str, mysql_url: str) -> None:
        self._redis = redis_at(redis_url)
        self._mysql_url = mysql_url

    async def close(self) -> None:
        await self._redis.aclose()

    async def look(self) -> World:
        """Everything at about this moment; exact once nothing moves any more."""
        levels = await self._query("SELECT content_level, min_counts, max_counts, path FROM level")
        rows = await self._query("SELECT cid, content_level, filename FROM contents")
        relocations = await self._query(
            "SELECT move_id, cid, from_level, to_level FROM relocations ORDER BY committed_at, placed_at, move_id"
        )
        changes = await self._query("SELECT cid, old_content_level, new_content_level FROM update_history ORDER BY id")
        states: dict[str, dict[str, str]] = {}
        entries: Counter[str] = Counter()
        dead: dict[str, str] = {}
        backlog: Counter[str] = Counter()
        for partition in range(int(await self._redis.hget(META, "partitions") or 0)):
            keys = PartitionKeys(partition)
            states |= await self._states(keys)
            backlog["views"] += await self._redis.xlen(keys.stream("views"))
            backlog["review"] += await self._due(keys)
            for name in _STREAMS:
                for _, fields in await self._redis.xrange(keys.stream(name)):
                    entries[fields[b"cid"].decode()] += 1
                    backlog[name] += 1
            for member in await self._redis.zrange(keys.later, 0, -1):
                flat = orjson.loads(member)
                entries[dict(zip(flat[1::2], flat[2::2], strict=True))["cid"]] += 1
                backlog["later"] += 1
            for _, fields in await self._redis.xrange(keys.dead):
                cid = fields.get(b"f:cid", b"").decode()
                dead[cid] = fields[b"reason"].decode()
        return World(
            levels=[tuple(row) for row in levels],
            rows={cid: (level, filename) for cid, level, filename in rows},
            relocations=[tuple(row) for row in relocations],
            changes=[tuple(row) for row in changes],
            states=states,
            open_entries=entries,
            dead=dead,
            backlog=dict(backlog),
        )

    async def _due(self, keys: PartitionKeys) -> int:
        """Reviews of known contents; unknown ones are looked at again for days."""
        cids = [cid.decode() for cid in await self._redis.zrange(keys.review, 0, -1)]
        states = [await self._redis.hget(keys.content(cid), "status") for cid in cids]
        return sum(status not in {b"unknown", b"forgotten"} for status in states)

    async def _states(self, keys: PartitionKeys) -> dict[str, dict[str, str]]:
        held = await self._redis.hgetall(keys.counts)
        states = {cid.decode(): counted(text) for cid, text in held.items()}
        async for key in self._redis.scan_iter(match=keys.content_prefix.replace("[", "\\[") + "*", count=1000):
            fields = await self._redis.hgetall(key)
            state = {k.decode(): v.decode() for k, v in fields.items()}
            states.setdefault(key.decode()[len(keys.content_prefix) :], {}).update(state)
        return states

    async def _query(self, sql: str) -> list[Any]:
        connection = await asyncmy.connect(autocommit=True, **parse_mysql_url(self._mysql_url).connect_arguments())
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(sql)
                return list(await cursor.fetchall())
        finally:
            connection.close()

    async def settle(self, timeout_s: float = 60) -> World:
        """Returns when no work is left anywhere and nothing has changed between two looks."""
        deadline = time.monotonic() + timeout_s
        before: World | None = None
        while True:
            world = await self.look()
            if not any(world.backlog.values()) and before == world:
                return world
            before = world
            if time.monotonic() > deadline:
                raise AssertionError(f"not settled after {timeout_s} s: {world.backlog}, dead letters {world.dead}")
            await asyncio.sleep(0.1)

    async def judge(
        self,
        expected: Mapping[str, Expected],
        timeout_s: float = 60,
        *,
        dead_allowed: bool = False,
        copies_allowed: bool = False,
    ) -> World:
        """Wait until all is settled, then assert every guarantee about the `expected` contents.

        `copies_allowed`: Redis lost moves, so that second copies may stay until `audit` removes them.
        """
        world = await self.settle(timeout_s)
        faults = await asyncio.to_thread(
            find_faults, world, expected, dead_allowed=dead_allowed, copies_allowed=copies_allowed
        )
        assert not faults, "\n".join(["the oracle found:", *faults[:40]])
        return world


def find_faults(
    world: World, expected: Mapping[str, Expected], *, dead_allowed: bool, copies_allowed: bool = False
) -> list[str]:
    """One line per broken guarantee."""
    faults = [] if dead_allowed or not world.dead else [f"G6: dead letters {world.dead}"]
    for cid, want in expected.items():
        faults += _of_content(world, cid, want)
    faults += _of_history(world)
    faults += _of_strays(world, copies_allowed=copies_allowed)
    return faults


def _of_content(world: World, cid: str, want: Expected) -> list[str]:
    faults = []
    if cid not in world.rows:
        return [f"G3: {cid} is no longer in the catalog"]
    level, filename = world.rows[cid]
    state = world.states.get(cid, {})
    file = world.path(level) / filename
    if not file.is_file():
        faults.append(f"G3: {cid}: MySQL names {file}, which is not there")
    elif sha256(file.read_bytes()) != want.sha256:
        faults.append(f"G3: {cid}: {file} is not the file that was put there")
    if world.open_entries[cid] > 1:
        faults.append(f"G2: {cid} has {world.open_entries[cid]} entries open")
    if want.count is not None:
        count = int(state.get("count", 0))
        if count != want.count:
            faults.append(f"G1: {cid} counts {count}, but {want.count} views were accepted")
        if cid not in world.dead and level != world.level_for(want.count):
            faults.append(f"G6: {cid} counts {want.count} but rests on {level}")
    if cid not in world.dead and state.get("status") not in {"idle", None}:
        faults.append(f"G6: {cid} is {state.get('status')} for ever")
    return faults


def _of_history(world: World) -> list[str]:
    """Each relocation once, each chain unbroken, each level change of ours in update_history."""
    faults = [f"G5: move {move_id} twice" for move_id, n in Counter(r[0] for r in world.relocations).items() if n > 1]
    steps: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for cid, old, new in world.changes:
        steps[cid].append((old, new))
    for cid, chain in steps.items():
        for (_, left), (right, _) in pairwise(chain):
            if left != right:
                faults.append(f"G8: {cid}'s history jumps from {left} to {right}")
        if cid in world.rows and chain[-1][1] != world.rows[cid][0]:
            faults.append(f"G8: {cid}'s history ends on {chain[-1][1]}, its row on {world.rows[cid][0]}")
    moved = Counter((cid, old, new) for _, cid, old, new in world.relocations)
    changed = Counter(world.changes)
    faults += [f"G8: relocation {step} is not in update_history" for step in (moved - changed)]
    return faults


def _of_strays(world: World, *, copies_allowed: bool) -> list[str]:
    """No second copies, no part files: each tracked file stands on one level only."""
    faults = []
    dead_files = {world.rows[cid][1] for cid in world.dead if cid in world.rows}
    tracked = {filename for level, filename in world.rows.values()}
    found: Counter[str] = Counter()
    for _, _, _, path in world.levels:
        for file in Path(path).rglob("*"):
            if file.is_dir() or file == Path(path) / ".reshelve.level":
                continue
            if file.name.startswith(".reshelve."):
                faults.append(f"G4: part file left at {file}")
            else:
                found[str(file.relative_to(path))] += 1
    twice = [] if copies_allowed else [(name, n) for name, n in found.items() if n > 1 and name not in dead_files]
    faults += [f"G4: {name} stands on {n} levels" for name, n in twice]
    faults += [f"G4: {name} is on disk but in no row" for name in found if name not in tracked]
    return faults


def counts_of(views: Sequence[tuple[str, int]]) -> dict[str, int]:
    """The sums of (cid, views)."""
    sums: Counter[str] = Counter()
    for cid, n in views:
        sums[cid] += n
    return dict(sums)
