"""What a relocation asks of Redis, from its opening to its end, outside the reading of streams."""

from __future__ import annotations

from collections import Counter

from shared.state.moves import Commits, Held, Moves
from shared.state.reviews import Opening, Reviews
from tests.costs.counting import commands
from tests.samples import a_move, a_placed, cids_of, commitment_of, retire_of
from tests.streams import PARTITIONS, P, Streams, connected

_FEW, _MORE = 10, 60
_EACH = 18
"""Look 1, open 3, start 2, finish 3, commit 3, start 2, settle 3; 1 to spare."""
_SCRIPTS = 8
"""claim, look, open, start, finish, commit, start, settle: each once a batch."""


async def _relocate(streams: Streams, number: int) -> Counter[str]:
    """The commands of one batch through every verb; deliveries are counted apart."""
    reviews, moves, commits = Reviews(streams.scripts), Moves(streams.scripts), Commits(streams.scripts)
    cids = cids_of(P, number, PARTITIONS)
    orders = {cid: a_move(cid) for cid in cids}
    for cid in cids:
        await streams.put_review(cid)
    async with commands(streams.redis) as counted:
        assert set(await reviews.claim(P, number, 30_000)) == set(cids)
        assert {due.status for due in await reviews.look(P, cids)} == {""}
        assert all(await reviews.open(P, [Opening(order, "0", 0) for order in orders.values()]))
        entries = await streams.deliver("moves")
        held = [Held("moves", P, entry.entry_id, orders[entry.fields[b"cid"].decode()]) for entry in entries]
        assert await moves.start("moves", P, "one", held) == [1] * number
        placed = {cid: a_placed(cid, move_id=order.move_id) for cid, order in orders.items()}
        begun = [Held("moves", P, one.entry_id, one.message, 1) for one in held]
        assert all(await moves.finish(P, [(one, placed[one.message.cid]) for one in begun]))
        entries = await streams.deliver("placed")
        retires = {cid: retire_of(word) for cid, word in placed.items()}
        done = [commitment_of(entry.entry_id, placed[entry.fields[b"cid"].decode()]) for entry in entries]
        assert await commits.commit(P, done, 0) == [1] * number
        entries = await streams.deliver("retires")
        held = [Held("retires", P, entry.entry_id, retires[entry.fields[b"cid"].decode()]) for entry in entries]
        assert await moves.start("retires", P, "one", held) == [1] * number
        begun = [Held("retires", P, one.entry_id, one.message, 1) for one in held]
        assert all(await moves.settle(P, begun))
    del counted["xreadgroup"]
    return counted


async def test_a_relocation_costs_few_commands_and_a_batch_no_more_script_calls_than_one(redis_db: str) -> None:
    found = []
    for number in (_FEW, _MORE):
        async with connected(redis_db) as scripts:
            await scripts.redis.flushdb()
            streams = Streams(scripts)
            await streams.make_groups()
            await _relocate(streams, 1)  # loads the scripts
            await scripts.redis.flushdb()
            await streams.make_groups()
            found.append(await _relocate(streams, number))
    few, more = found
    assert few.pop("script calls") == more.pop("script calls") == _SCRIPTS
    each = {name: (more[name] - few[name]) / (_MORE - _FEW) for name in more if more[name] > few[name]}
    assert sum(each.values()) <= _EACH, each
