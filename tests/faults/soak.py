"""The soak: two of each service, random views, a random fault every second, the oracle at the end.

`python -m tests.faults.soak --minutes 10 [--seed 7]`, or `make soak MINUTES=10`. Ends with 1 if anything was found.
The seed fixes what is done; when it takes effect is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.soak_faults import Faults
from tests.faults.soak_system import System, whole_system
from tests.faults.soak_traffic import Books, Client
from tests.oracle import Oracle, World, find_faults

CONTENTS = 300
_CLIENTS = 4
_SHARED = 100
_SETTLE_S = 240


@dataclass
class Report:
    """What was done, and what the oracle and the processes' own words have against it."""

    seed: int
    seconds: float
    split: bool
    faults: Counter[str]
    books: Books
    relocations: int = 0
    lost: int = 0
    twice: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        dead = ", ".join(f"{reason} {n}" for reason, n in self.dead.items()) or "none"
        return "\n".join(
            [
                f"soak of {self.seconds / 60:.1f} min, seed {self.seed}, {1 + self.split} filesystems",
                f"faults made     {sum(self.faults.values())} ({kinds})",
                f"views accepted  {self.books.views} in {self.books.requests} requests, {self.books.retries} repeated",
                f"relocations     {self.relocations}",
                f"views lost      {self.lost}",
                f"counted twice   {self.twice}",
                f"dead letters    {dead}",
                f"faults found    {len(self.found)}",
                *self.found[:40],
            ]
        )


async def soak(system: System, seconds: float, contents: int = CONTENTS, *, seed: int) -> Report:
    """Views and faults for so long, then peace, then the judgement."""
    await system.prepare(contents)
    await system.start()
    faults, books, stop = Faults(system, random.Random(seed)), Books(), asyncio.Event()
    traffic = [asyncio.create_task(client.run(stop)) for client in _clients(system, books, seed)]
    try:
        await faults.run(seconds)
        await system.ready()
        stop.set()
        await asyncio.wait_for(asyncio.gather(*traffic), 60)
    finally:
        for task in traffic:
            task.cancel()
    report = Report(seed, seconds, system.split, faults.made, books)
    await _judge(system, report)
    system.look_after()
    report.found += system.found + [f"a view was refused: {text}" for text in books.refused]
    codes = system.stack.stop()
    report.found += [f"{name} ended with {sorted(set(ends))}" for name, ends in codes.items() if set(ends) != {0}]
    report.found += system.stack.errors() + system.servers.accounts.denials(system.redis.url)
    return report


def _clients(system: System, books: Books, seed: int) -> list[Client]:
    cids = list(system.files)
    shared, own = cids[:_SHARED], cids[_SHARED:]
    return [
        Client(f"client{n}", own[n::_CLIENTS], shared, system.http_urls, random.Random(f"{seed} {n}"), books)
        for n in range(_CLIENTS)
    ]


async def _judge(system: System, report: Report) -> None:
    oracle = Oracle(system.redis.url, system.mysql.url)
    try:
        try:
            world = await oracle.settle(_SETTLE_S)
        except AssertionError as error:
            report.found.append(f"G6: {error}")
            world = await oracle.look()
    finally:
        await oracle.close()
    counts = dict(report.books.counts)
    report.found += await asyncio.to_thread(find_faults, world, system.expected(counts), dead_allowed=False)
    report.relocations = len(world.relocations)
    report.dead = Counter(world.dead.values())
    report.lost, report.twice = _missed(world, counts)


def _missed(world: World, counts: dict[str, int]) -> tuple[int, int]:
    """Views that are missing from the counts, and views that are in them beyond what was accepted."""
    over = [int(world.states.get(cid, {}).get("count", 0)) - count for cid, count in counts.items()]
    return -sum(n for n in over if n < 0), sum(n for n in over if n > 0)


def run(directory: Path, seconds: float, seed: int, contents: int = CONTENTS) -> Report:
    """The whole soak in an empty directory."""
    with whole_system(directory, random.Random(seed)) as system:
        return asyncio.run(soak(system, seconds, contents, seed=seed))


def main() -> int:
    parser = argparse.ArgumentParser(description="faults for a while, then the oracle")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--directory", type=Path, default=None, help="empty; kept, with all logs")
    given = parser.parse_args()
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    if given.directory is not None:
        given.directory.mkdir(parents=True, exist_ok=True)
        report = run(given.directory.resolve(), given.minutes * 60, seed)
    else:
        with tempfile.TemporaryDirectory(prefix="reshelve-soak-", ignore_cleanup_errors=True) as directory:
            report = run(Path(directory).resolve(), given.minutes * 60, seed)
    sys.stdout.write(f"{report}\n")
    return 1 if report.found else 0


if __name__ == "__main__":
    sys.exit(main())
