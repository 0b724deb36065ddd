"""The mover killed at every step of a move and of a retire. A fresh one brings everything to rest.

Each step's victim has a lease of a minute: it takes over nothing, and so dies at its own content. The fresh mover's is
short.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.floor import Floor, ended
from tests.faults.proxy import Match, Moment, Proxy, script
from tests.faults.strace import READ, kill, traced

# In the order in which they happen; a call that both streams' work knows is told apart by the directory it is about.
PLACING = {
    "silver": [
        *("fallocate", READ, f"{READ} 2", "fchmod", "utimensat"),
        *("fsync 2", f"{READ} 4", "flock", "renameat2", "fsync target"),
    ],
    "gold": ["linkat", "flock", "renameat2", "fsync target"],
}
RETIRING = ["unlinkat", "fsync source", "unlinkat 2"]
# The command, not the word: the text of a script that is loaded has it too.
_ASKS = script("current")
# The mover asks whether its attempt is current twice, each time under a lock: before it publishes, before it unlinks.
REQUESTS: list[tuple[Match, int]] = [
    (script("start"), 1),
    (_ASKS, 1),
    (script("finish"), 1),
    (_ASKS, 2),
    (script("settle"), 1),
]


async def _killed_at(floor: Floor, cid: str, level: str, step: str, log: Path) -> None:
    """A mover dies at this step of relocating the content."""
    call, *rest = step.split()
    where = {"target": floor.file(level, cid).parent, "source": floor.file("bronze", cid).parent}
    only = next((where[word] for word in rest if word in where), None)
    nth = next((int(word) for word in rest if word.isdigit()), 1)
    victim = await floor.mover(traced(log, call, kill(call, nth), only=only), lease_ms=60_000)
    await floor.send(cid, level)
    await ended(victim, step)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("level", ["silver", "gold"])
async def test_mover_killed_at_every_system_call_of_its_file_work(floor: Floor, level: str, tmp_path: Path) -> None:
    for number, step in enumerate((*PLACING[level], *RETIRING)):
        cid = await floor.content()
        await _killed_at(floor, cid, level, step, tmp_path / f"calls-{number}")
        assert floor.file("bronze", cid).exists() or floor.file(level, cid).exists(), step
    await floor.mover()
    await floor.judge()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("level", ["silver", "gold"])
async def test_mover_killed_around_every_request(floor: Floor, level: str) -> None:
    moments: tuple[Moment, ...] = ("before", "after")
    with Proxy.before(floor.stack.redis_url_of("mover")) as proxy:
        for match, nth in REQUESTS:
            for moment in moments:
                cid = await floor.content()
                victim = await floor.mover(lease_ms=60_000, settings={"RESHELVE_REDIS_URL": proxy.url})
                trap = proxy.trap(match, moment, victim.kill, nth=nth)
                await floor.send(cid, level)
                await trap.hit()
                await ended(victim, f"{moment} {match!r} {nth}")
    await floor.mover()
    await floor.judge()
