"""The scripts behind an operator's verbs: letters listed, shown, put back and dropped, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared.errors import DeadLetterError, InvalidError
from shared.keys import StreamName
from shared.messages import Move, Placed, Retire
from shared.state.dead_letters import DeadLetterQueue, Filter, GoneError, Letter, LetterId, RefusedError
from shared.state.moves import WAITED, DeadLetters, Held, Moves
from tests.samples import a_move, a_placed, a_retire, cids_of
from tests.streams import CID, PARTITIONS, P, Streams

Message = Move | Placed | Retire
BY_STREAM: dict[StreamName, tuple[Callable[..., Message], str, str]] = {
    "moves": (a_move, "moving", "update"),
    "placed": (a_placed, "done", "done"),
    "retires": (a_retire, "retiring", "retiring"),
}
"""What lies on the stream, the status while it is worked on, and the one after a retry."""


@pytest.fixture
def letters(seen: Streams) -> DeadLetterQueue:
    return DeadLetterQueue(seen.scripts)


async def buried(
    seen: Streams, stream: StreamName = "moves", cid: str = CID, reason: str = "source missing", attempt: int = 3
) -> Letter:
    """A letter as a service leaves it, with its content failed."""
    make, status, _ = BY_STREAM[stream]
    message = make(cid)
    held = await seen.hold(stream, message, attempt=attempt)
    await seen.put_content(
        cid, level="bronze", filename=message.filename, count=1500, status=status, move_id=message.move_id,
        target="silver", attempt=attempt, version=5, lo=0, hi=1000, worker_id="one",
    )  # fmt: skip
    assert await DeadLetters(seen.scripts).bury(held, DeadLetterError(reason, "why so"))
    *_, letter = await DeadLetterQueue(seen.scripts).list(Filter(cid=cid), 1000)
    return letter


async def buried_raw(seen: Streams, stream: StreamName, fields: dict[str | bytes, str | bytes], reason: str) -> Letter:
    await seen.add_raw(stream, [part for pair in fields.items() for part in pair])
    (entry,) = await seen.deliver(stream)
    assert await DeadLetters(seen.scripts).bury_raw(entry, DeadLetterError(reason))
    *_, letter = await DeadLetterQueue(seen.scripts).list(Filter(reason=reason), 1000)
    return letter


def id_of(letter: Letter) -> LetterId:
    return LetterId.parse(letter.id)


# --- looking ----------------------------------------------------------------------------------------------------------


async def test_a_letter_is_listed_and_shown_with_what_it_holds(seen: Streams, letters: DeadLetterQueue) -> None:
    letter = await buried(seen)
    assert (letter.stream, letter.reason, letter.detail, letter.attempts) == ("moves", "source missing", "why so", 3)
    assert (letter.cid, letter.id.partition(":")[0]) == (CID, str(P))
    shown, fields = await letters.show(id_of(letter))
    assert shown == letter
    assert (fields["move_id"], fields["from"], fields["to"]) == (letter.move_id, "bronze", "silver")


async def test_pages_lose_and_repeat_nothing_over_all_partitions(seen: Streams, letters: DeadLetterQueue) -> None:
    for partition in range(PARTITIONS):
        for cid in cids_of(partition, 3, PARTITIONS):
            await buried(seen, cid=cid)
    everything = await letters.list(Filter(), 100)
    assert len({letter.id for letter in everything}) == 3 * PARTITIONS
    for limit in (1, 2, 3, 5, 12):
        found: list[Letter] = []
        while page := await letters.list(Filter(), limit, id_of(found[-1]) if found else None):
            assert len(page) <= limit
            found += page
        assert found == everything


async def test_filters_must_all_hold(seen: Streams, letters: DeadLetterQueue) -> None:
    other = cids_of(P, 2, PARTITIONS)[1]
    await buried(seen, "moves", reason="source missing")
    await buried(seen, "retires", cid=other, reason="source missing")
    await buried(seen, "moves", cid=other, reason="target exists")

    async def found(**wanted: str) -> list[tuple[str, str]]:
        return [(letter.stream, letter.cid) for letter in await letters.list(Filter(**wanted), 100)]

    assert await found(stream="moves") == [("moves", CID), ("moves", other)]
    assert await found(reason="source missing") == [("moves", CID), ("retires", other)]
    assert await found(stream="moves", cid=other) == [("moves", other)]
    assert await found(stream="placed") == await found(reason="source") == []


async def test_a_match_behind_many_others_is_found(seen: Streams, letters: DeadLetterQueue) -> None:
    """More than one script call looks at: with the cursor left out of the reply, the list ends too early."""
    common: Any = dict.fromkeys(("detail", "entry_id"), "") | {"origin": "views", "attempts": "1", "died_at": "1"}
    async with seen.redis.pipeline() as pipe:
        for n in range(1205):
            pipe.xadd(seen.keys().dead, common | {"reason": "rare" if n >= 1203 else "common"})
        await pipe.execute()
    assert len(await letters.list(Filter(reason="rare"), 10)) == 2
    assert len(await letters.list(Filter(), 2000)) == 1205


@pytest.mark.parametrize("text", ["", "7", "0:", "0:1", "x:1-0", "0:1-0\n", "-1:1-0", f"0:{2**64}-0", "٣:1-0"])
def test_a_text_that_is_no_letters_id(text: str) -> None:
    with pytest.raises(InvalidError, match="no dead letter's id"):
        LetterId.parse(text)


@pytest.mark.parametrize("id_", ["99999:1-0", "0:1-0", f"{P}:18446744073709551615-0"])
async def test_what_is_not_there_is_gone(letters: DeadLetterQueue, id_: str) -> None:
    for verb in (letters.show, letters.retry, letters.drop):
        with pytest.raises(GoneError, match="list them anew"):
            await verb(LetterId.parse(id_))


# --- putting back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["moves", "placed", "retires"])
async def test_a_retry_puts_the_entry_back_and_opens_its_content(
    seen: Streams, letters: DeadLetterQueue, stream: StreamName
) -> None:
    letter = await buried(seen, stream)
    _, before = await letters.show(id_of(letter))
    await letters.retry(id_of(letter))
    (entry,) = await seen.said(stream)
    assert entry == (before if stream == "placed" else before | {WAITED: "3"})
    assert await seen.dead() == []
    state = await seen.content()
    assert (state["status"], state["move_id"], state["version"]) == (BY_STREAM[stream][2], letter.move_id, "7")
    assert not state.keys() & {"error", "worker_id"}


@pytest.mark.parametrize("stream", ["moves", "retires"])
async def test_all_attempts_are_there_again_but_no_token_of_before_fits(
    seen: Streams, letters: DeadLetterQueue, stream: StreamName
) -> None:
    """A mover that was given up on still holds token 1: with attempts set back to 0, the next start would repeat it."""
    letter = await buried(seen, stream, attempt=1)
    make, _, _ = BY_STREAM[stream]
    zombie = Held(stream, P, b"0-1", make(CID, move_id=letter.move_id), attempt=1)
    await letters.retry(id_of(letter))
    (entry,) = await seen.deliver(stream)
    held = Held(stream, P, entry.entry_id, zombie.message, waited=int(entry.fields[WAITED.encode()]))
    moves = Moves(seen.scripts)
    (attempt,) = await moves.start(stream, P, "one", [held])
    assert attempt - held.waited == 1
    assert await moves.current(P, [zombie]) == [False]


async def test_a_letter_that_died_again_is_retried_again(seen: Streams, letters: DeadLetterQueue) -> None:
    letter = await buried_raw(seen, "moves", {"cid": CID, "move_id": "m", WAITED: "9"}, "consumers died")
    await seen.put_content(status="moving", move_id="m", attempt=11, version=1)
    await letters.retry(id_of(letter))
    assert await seen.entries("moves") == [{"cid": CID, "move_id": "m", WAITED: "11"}]
    assert (await seen.content())["status"] == "update"


@pytest.mark.parametrize(
    "changed", [{"move_id": "another"}, {"status": "idle"}, {"status": "retiring"}, {"status": "unknown"}, {}]
)
async def test_a_retry_is_refused_where_the_content_has_moved_on(
    seen: Streams, letters: DeadLetterQueue, changed: dict[str, str]
) -> None:
    letter = await buried(seen)
    if changed:
        await seen.put_content(**changed)
    else:
        await seen.lose()
    before = await seen.everything()
    with pytest.raises(RefusedError, match=r"has moved on since .* drop the letter"):
        await letters.retry(id_of(letter))
    assert await seen.everything() == before


async def test_a_retry_happens_once(seen: Streams, letters: DeadLetterQueue) -> None:
    letter = await buried(seen)
    await letters.retry(id_of(letter))
    before = await seen.everything()
    with pytest.raises(GoneError):
        await letters.retry(id_of(letter))
    assert await seen.everything() == before


async def test_what_belongs_to_no_content_just_goes_back_byte_by_byte(seen: Streams, letters: DeadLetterQueue) -> None:
    await seen.put_content(status="idle", version=1)
    state = await seen.content()
    raw: dict[str | bytes, str | bytes] = {b"\xff": b"\x00\x01", "f:v1": "{", "reason": "mine", "": ""}
    letter = await buried_raw(seen, "views", raw, "undecodable")
    _, fields = await letters.show(id_of(letter))
    assert fields == {"\\xff": "\x00\x01", "f:v1": "{", "reason": "mine", "": ""}
    await letters.retry(id_of(letter))
    assert await seen.entries("views") == [{"\xff": "\x00\x01", "f:v1": "{", "reason": "mine", "": ""}]
    assert await seen.content() == state


async def test_what_never_was_an_entry_cannot_go_back(seen: Streams, letters: DeadLetterQueue) -> None:
    await seen.redis.zadd(seen.keys().later, {b"{": 1})
    await Moves(seen.scripts).due(P, 10)
    (letter,) = await letters.list(Filter(stream="later"), 10)
    with pytest.raises(RefusedError, match="never was an entry"):
        await letters.retry(id_of(letter))
    assert await letters.drop(id_of(letter)) == "dropped"
    assert await seen.dead() == []


# --- dropping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["moves", "placed", "retires"])
async def test_a_dropped_letters_content_rests_until_its_next_view(
    seen: Streams, letters: DeadLetterQueue, stream: StreamName
) -> None:
    letter = await buried(seen, stream)
    assert await letters.drop(id_of(letter)) == "rests"
    assert await seen.dead() == await seen.entries(stream) == []
    filename = BY_STREAM[stream][0](CID).filename
    # Without lo and hi, a view of an idle content asks for a review.
    assert await seen.content() == {
        "level": "bronze", "filename": filename, "count": "1500", "status": "idle", "version": "7", "absolute": "1",
    }  # fmt: skip
    assert await seen.reviews() == {}


@pytest.mark.parametrize(
    "changed",
    [{"move_id": "another", "status": "moving"}, {"status": "done"}, {"status": "retiring"}, {"status": "idle"}],
)
async def test_a_content_that_has_moved_on_is_left_alone(
    seen: Streams, letters: DeadLetterQueue, changed: dict[str, str]
) -> None:
    letter = await buried(seen)
    await seen.put_content(**changed)
    state = await seen.content()
    assert await letters.drop(id_of(letter)) == "dropped"
    assert (await seen.content(), await seen.dead()) == (state, [])


async def test_a_drop_happens_once(seen: Streams, letters: DeadLetterQueue) -> None:
    letter = await buried(seen)
    await letters.drop(id_of(letter))
    before = await seen.everything()
    with pytest.raises(GoneError):
        await letters.drop(id_of(letter))
    assert await seen.everything() == before


# --- several operators at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["moves", "placed", "retires"])
async def test_of_operators_who_retry_and_drop_one_letter_at_once_one_does_it(
    seen: Streams, letters: DeadLetterQueue, stream: StreamName
) -> None:
    """All have read the letter before the first script runs, so that only the scripts' own look at it keeps them apart.

    A second retry would put an entry without fields beside the first; a drop after a retry would call a content idle
    whose entry waits.
    """
    letter = await buried(seen, stream)
    verbs = [letters.retry, letters.retry, letters.drop, letters.drop]
    answers = await asyncio.gather(*(verb(id_of(letter)) for verb in verbs), return_exceptions=True)
    (done,) = [answer for answer in answers if not isinstance(answer, GoneError)]
    left = ("idle", 0) if done == "rests" else (BY_STREAM[stream][2], 1)
    assert ((await seen.content())["status"], len(await seen.entries(stream))) == left
    assert await seen.dead() == []
