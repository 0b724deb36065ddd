from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shared.batching import Batcher


class Gate:
    """A flush that waits until it is let through, and answers each item with its double."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.fail: set[int] = set()

    async def flush(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await self.open.wait()
        if self.fail & set(items):
            raise ValueError(f"no {sorted(self.fail & set(items))}")
        return [2 * item for item in items]


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_items_that_come_while_a_flush_runs_go_out_together() -> None:
    gate = Gate()
    batcher = Batcher(gate.flush, 100)
    first = asyncio.create_task(batcher.submit(0))
    await turns()
    others = [asyncio.create_task(batcher.submit(n)) for n in range(1, 50)]
    await turns()
    assert gate.batches == [[0]]
    gate.open.set()
    assert await first == 0
    assert await asyncio.gather(*others) == [2 * n for n in range(1, 50)]
    assert gate.batches == [[0], list(range(1, 50))]


async def test_a_batch_holds_at_most_the_limit_and_keeps_the_order() -> None:
    gate = Gate()
    gate.open.set()
    batcher = Batcher(gate.flush, 4)
    assert await asyncio.gather(*(batcher.submit(n) for n in range(10))) == [2 * n for n in range(10)]
    assert gate.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_one_alone_does_not_wait_for_company() -> None:
    gate = Gate()
    gate.open.set()
    batcher = Batcher(gate.flush, 100)
    assert await asyncio.wait_for(batcher.submit(3), 1) == 6
    assert await asyncio.wait_for(batcher.submit(4), 1) == 8
    assert gate.batches == [[3], [4]]


async def test_an_error_reaches_everyone_in_its_batch_and_nobody_else() -> None:
    gate = Gate()
    gate.open.set()
    gate.fail = {2}
    batcher = Batcher(gate.flush, 2)
    answers = await asyncio.gather(*(batcher.submit(n) for n in range(6)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 2, 8, 10]
    assert [str(answer) for answer in answers[2:4]] == ["no [2]", "no [2]"]
    gate.fail = set()
    assert await batcher.submit(7) == 14


async def test_a_waiter_that_gives_up_does_not_hurt_the_others() -> None:
    gate = Gate()
    batcher = Batcher(gate.flush, 100)
    tasks = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await turns()
    late = [asyncio.create_task(batcher.submit(n)) for n in range(3, 6)]
    await turns()
    for given_up in (tasks[0], late[1]):
        given_up.cancel()
    await turns()
    gate.open.set()
    answers = await asyncio.gather(*tasks, *late, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [2, 4, 6, 10]
    assert [type(answer) for answer in (answers[0], answers[4])] == [asyncio.CancelledError] * 2
    assert await batcher.submit(9) == 18


async def test_an_error_finds_waiters_that_gave_up_gone() -> None:
    gate = Gate()
    gate.fail = {1}
    batcher = Batcher(gate.flush, 100)
    gone = asyncio.create_task(batcher.submit(1))
    staying = asyncio.create_task(batcher.submit(1))
    await turns()
    gone.cancel()
    gate.open.set()
    with pytest.raises(ValueError, match="no"):
        await staying
    assert gone.cancelled() or isinstance(gone.exception(), asyncio.CancelledError)
