"""What waits for its next attempt holds nobody up."""

from __future__ import annotations

import fcntl

from tests.faults.floor import Floor
from tests.faults.house import until

_TRIES, _WAIT_S = 6, 8
"""After so many tries the wait is at least so long, and a relocation takes a second or two."""


async def test_what_waits_for_its_next_attempt_holds_no_worker(floor: Floor) -> None:
    """The mover's only worker relocates another content meanwhile. Fails where the wait is slept through in it."""
    stuck, other = await floor.content(), await floor.content()

    async def tries() -> int:
        return int((await floor.state(stuck)).get("attempt", 0))

    async def tried() -> bool:
        return await tries() == _TRIES

    async def settled() -> bool:
        world = await floor.look()
        return (world.rows[other][0], world.states[other].get("status")) == ("gold", "idle")

    await floor.mover(settings={"RESHELVE_MOVER_CONCURRENCY": "1", "RESHELVE_MAX_ATTEMPTS": "20"})
    with floor.file("bronze", stuck).open("rb") as source:
        fcntl.flock(source, fcntl.LOCK_EX)
        await floor.send(stuck, "gold")
        await until(tried, "the locked source was tried again and again", 40)
        await floor.send(other, "gold")
        await until(settled, "the other is settled while the first waits", _WAIT_S - 2)
        assert await tries() == _TRIES
    await floor.judge()
