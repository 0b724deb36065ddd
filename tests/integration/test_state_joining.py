"""Calls for several partitions in one command: each keeps its own outcome."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.redis_client import is_missing_group
from shared.state.joining import Joining
from shared.state.moves import Commits, Held, Moves
from shared.state.reviews import Reviews
from tests.costs.counting import commands
from tests.samples import a_move, a_placed, cids_of, commitment_of
from tests.streams import PARTITIONS, Streams


def watch(seen: Streams, partition: int) -> asyncio.Future[list[object]]:
    key = seen.scripts.partitions[partition].stream("moves")
    return asyncio.ensure_future(seen.scripts.join("watch", [key], ["mover"]))


async def test_calls_of_the_same_moment_are_one_command_and_each_has_its_own_reply(seen: Streams) -> None:
    for partition in range(PARTITIONS):
        key = seen.scripts.partitions[partition].stream("moves")
        for _ in range(partition + 1):
            await seen.redis.xadd(key, {"body": "x"})
    await asyncio.gather(*(watch(seen, partition) for partition in range(PARTITIONS)))  # loads the script
    async with commands(seen.redis) as counted:
        replies = await asyncio.gather(*(watch(seen, partition) for partition in range(PARTITIONS)))
    assert [reply[0] for reply in replies] == [partition + 1 for partition in range(PARTITIONS)]
    assert counted["script calls"] == 1


async def test_what_breaks_off_in_one_partition_is_no_others_concern(seen: Streams) -> None:
    await seen.redis.delete(seen.scripts.partitions[1].stream("moves"))
    await seen.redis.set(seen.scripts.partitions[2].stream("moves"), "no stream")
    looks = [
        seen.scripts.join("reclaim", [keys.stream("moves")], ["mover", "one", 1000, "-", 10, 5])
        for keys in seen.scripts.partitions
    ]
    outcomes = await asyncio.gather(*looks, return_exceptions=True)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, True, *[False] * (PARTITIONS - 3)]
    assert is_missing_group(outcomes[1])
    assert isinstance(outcomes[2], ResponseError)
    assert "WRONGTYPE" in str(outcomes[2])


async def test_what_a_planner_and_a_mover_ask_again_and_again_is_one_command_for_all_partitions(seen: Streams) -> None:
    reviews, moves = Reviews(seen.scripts), Moves(seen.scripts)

    async def ask() -> None:
        await asyncio.gather(*(reviews.claim(partition, 10, 1000) for partition in range(PARTITIONS)))
        await asyncio.gather(*(moves.due(partition, 10) for partition in range(PARTITIONS)))

    await ask()
    async with commands(seen.redis) as counted:
        await ask()
    assert counted["script calls"] == 2


async def test_a_step_of_a_batch_is_one_command_however_many_partitions_it_is_of(seen: Streams) -> None:
    moves, commits = Moves(seen.scripts), Commits(seen.scripts)
    held = []
    for partition in range(PARTITIONS):
        (cid,) = cids_of(partition, 1, PARTITIONS)
        held.append(Held("moves", partition, b"1-1", a_move(cid), 1))

    async def batch() -> None:
        # Nobody has these: every step is refused, in each partition.
        assert (
            await asyncio.gather(*(moves.start("moves", h.partition, "one", [h]) for h in held)) == [[-1]] * PARTITIONS
        )
        assert await asyncio.gather(*(moves.current(h.partition, [h]) for h in held)) == [[False]] * PARTITIONS
        placed = [(h, a_placed(h.message.cid)) for h in held]
        finished = await asyncio.gather(*(moves.finish(h.partition, [(h, word)]) for h, word in placed))
        assert finished == [[False]] * PARTITIONS
        committing = (commits.commit(h.partition, [commitment_of(h.entry_id, word)], 0) for h, word in placed)
        assert await asyncio.gather(*committing) == [[0]] * PARTITIONS
        assert await asyncio.gather(*(moves.settle(h.partition, [h]) for h in held)) == [[0]] * PARTITIONS

    await batch()  # loads the scripts
    async with commands(seen.redis) as counted:
        await batch()
    assert counted["script calls"] == len(("start", "current", "finish", "commit", "settle"))


async def test_large_calls_are_commands_of_their_own() -> None:
    asked: list[int] = []

    async def alone(_name: str, keys: object, arguments: object) -> int:
        asked.append(1)
        return 0

    async def together(_name: str, keys: list[str], arguments: object) -> list[int]:
        asked.append(len(keys))
        return [0] * len(keys)

    joining = Joining(alone=alone, together=together)  # type: ignore[arg-type]
    sizes = (3000, 500, 500, 4000, 10, 10, 9000)
    await asyncio.gather(*(joining.call("x", ["key"], [0] * size) for size in sizes))
    assert asked == [3, 3, 1]
    asked.clear()
    await asyncio.gather(*(joining.call("x", ["key"], [0], packed=size) for size in sizes))
    assert asked == [3, 3, 1]


async def test_a_caller_that_is_cancelled_leaves_the_others_with_an_error_that_says_nothing_of_their_work() -> None:
    reached = asyncio.Event()

    async def never(_name: str, keys: object, arguments: object) -> int:
        reached.set()
        await asyncio.Event().wait()
        return 0

    joining = Joining(alone=never, together=never)
    first, second = (asyncio.create_task(joining.call("x", [key], [])) for key in "ab")
    await reached.wait()
    first.cancel()
    with pytest.raises(RedisConnectionError):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first
    again = asyncio.create_task(joining.call("x", ["a"], []))
    await asyncio.sleep(0)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again


async def test_one_that_is_cancelled_does_not_concern_the_one_it_goes_along_with() -> None:
    go_on = asyncio.Event()

    async def answer(_name: str, keys: list[str], arguments: object) -> list[str]:
        await go_on.wait()
        return list(keys)

    joining = Joining(alone=answer, together=answer)  # type: ignore[arg-type]
    first, second, third = (asyncio.create_task(joining.call("x", [key], [])) for key in "abc")
    for _ in range(3):
        await asyncio.sleep(0)
    second.cancel()
    go_on.set()
    assert await first == "a"
    assert await third == "c"
