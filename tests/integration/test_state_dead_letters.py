from __future__ import annotations

from collections.abc import Sequence

import pytest

from shared.errors import DeadLetterError
from shared.keys import StreamName
from shared.messages import Move, Placed, Retire
from shared.state.moves import DeadLetters, Held, RawEntry
from tests.samples import a_move, a_placed, a_retire
from tests.streams import CID, OTHER, P, Streams, now_ms

ERROR = DeadLetterError("target exists", "silver has another file dir/x")


async def a_held(
    seen: Streams, message: Move | Placed | Retire, *, stream: StreamName = "moves", attempt: int = 2
) -> Held:
    held = await seen.hold(stream, message, attempt=attempt)
    await seen.put_content(
        message.cid, level="bronze", status="moving", move_id=message.move_id, attempt=attempt, version=5, count=1500,
        worker_id="one",
    )  # fmt: skip
    return held


async def bury(seen: Streams, held: Held, *, fenced: bool = True) -> bool:
    return await DeadLetters(seen.scripts).bury(held, ERROR, fenced=fenced)


@pytest.mark.parametrize(
    ("stream", "message"), [("moves", a_move(CID)), ("placed", a_placed(CID)), ("retires", a_retire(CID))]
)
async def test_a_dead_letter_keeps_all_that_an_operator_needs(
    seen: Streams, stream: StreamName, message: Move | Placed | Retire
) -> None:
    held = await a_held(seen, message, stream=stream)
    assert await bury(seen, held)
    (letter,) = await seen.dead()
    flat = message.wire()
    fields = {f"f:{name}": value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    assert abs(int(letter.pop("died_at")) - now_ms()) < 5000
    assert letter == fields | {
        "origin": stream,
        "reason": "target exists",
        "detail": "silver has another file dir/x",
        "attempts": "2",
        "entry_id": held.entry_id.decode(),
    }
    assert (await seen.entries(stream), await seen.pending(stream)) == ([], {})
    assert await seen.content() == {
        "level": "bronze",
        "status": "failed",
        "move_id": message.move_id,
        "attempt": "2",
        "version": "6",
        "count": "1500",
        "error": "target exists: silver has another file dir/x",
    }


async def test_a_reason_without_detail_stands_alone(seen: Streams) -> None:
    held = await a_held(seen, a_move(CID))
    await DeadLetters(seen.scripts).bury(held, DeadLetterError("source missing"))
    assert (await seen.content())["error"] == "source missing"


@pytest.mark.parametrize("fenced", [True, False])
async def test_an_entry_is_buried_once(seen: Streams, fenced: bool) -> None:
    held = await a_held(seen, a_move(CID))
    await bury(seen, held, fenced=fenced)
    before = await seen.everything()
    assert not await bury(seen, held, fenced=fenced)
    assert await seen.everything() == before


@pytest.mark.parametrize("attempt", [0, 1, 3])
async def test_a_stale_attempt_cannot_bury_the_one_after_it(seen: Streams, attempt: int) -> None:
    held = await a_held(seen, a_move(CID))
    before = await seen.everything()
    assert not await bury(seen, held._replace(attempt=attempt))
    assert await seen.everything() == before


async def test_a_fenced_burial_needs_the_state_of_its_move(seen: Streams) -> None:
    held = await a_held(seen, a_move(CID))
    await seen.put_content(move_id="another")
    before = await seen.everything()
    assert not await bury(seen, held)
    assert await seen.everything() == before
    await seen.lose()
    assert not await bury(seen, held)
    assert await seen.content() == {}
    assert await seen.pending("moves") == {held.entry_id: "one"}


async def test_without_a_fence_any_attempt_is_buried_with_its_content(seen: Streams) -> None:
    held = await a_held(seen, a_placed(CID), stream="placed", attempt=2)
    await seen.put_content(attempt=9, status="done")
    assert await bury(seen, held, fenced=False)
    assert (await seen.content())["status"] == "failed"


@pytest.mark.parametrize("lost", [True, False])
async def test_without_a_fence_an_entry_whose_content_has_moved_on_is_buried_alone(seen: Streams, lost: bool) -> None:
    held = await a_held(seen, a_placed(CID), stream="placed")
    if lost:
        await seen.lose()
    else:
        await seen.put_content(move_id="another", status="moving")
    state = await seen.content()
    assert await bury(seen, held, fenced=False)
    assert await seen.content() == state
    assert [letter["reason"] for letter in await seen.dead()] == ["target exists"]
    assert await seen.entries("placed") == []
    assert not await bury(seen, held, fenced=False)


async def test_a_neighbour_stays_on_the_stream(seen: Streams) -> None:
    held = await a_held(seen, a_move(CID))
    other = await a_held(seen, a_move(OTHER))
    await bury(seen, held)
    assert await seen.pending("moves") == {other.entry_id: "one"}
    assert (await seen.content(OTHER))["status"] == "moving"


# --- entries that cannot be decoded -----------------------------------------------------------------------------------


async def bury_raw(seen: Streams, flat: Sequence[str | bytes], stream: StreamName = "views") -> dict[str, str]:
    await seen.add_raw(stream, flat)
    (entry,) = await seen.deliver(stream)
    letters = DeadLetters(seen.scripts)
    error = DeadLetterError("undecodable", "field 'cid' is missing")
    assert await letters.bury_raw(entry, error)
    before = await seen.everything()
    assert not await letters.bury_raw(entry, error)
    assert await seen.everything() == before
    assert (await seen.entries(stream), await seen.pending(stream)) == ([], {})
    (letter,) = await seen.dead()
    return letter


OWN = {"origin", "reason", "detail", "attempts", "died_at", "entry_id"}


async def test_what_cannot_be_decoded_is_kept_byte_by_byte(seen: Streams) -> None:
    letter = await bury_raw(seen, [b"\xff\xfe", b"\x00\x01", "v1", b"{not json", "", ""])
    assert {name: value for name, value in letter.items() if name not in OWN} == {
        "f:\xff\xfe": "\x00\x01",
        "f:v1": "{not json",
        "f:": "",
    }
    assert (letter["origin"], letter["reason"], letter["attempts"]) == ("views", "undecodable", "1")


async def test_a_field_cannot_pass_for_the_letters_own(seen: Streams) -> None:
    letter = await bury_raw(seen, ["reason", "all is well", "origin", "moves", "attempts", "0"])
    assert (letter["reason"], letter["origin"], letter["attempts"]) == ("undecodable", "views", "1")
    assert (letter["f:reason"], letter["f:origin"], letter["f:attempts"]) == ("all is well", "moves", "0")


async def test_a_field_that_comes_twice_is_no_trouble(seen: Streams) -> None:
    letter = await bury_raw(seen, ["a", "1", "a", "2"])
    assert letter["f:a"] in {"1", "2"}


async def test_the_largest_entry_of_views_is_kept_whole(seen: Streams) -> None:
    flat = [text for n in range(1000) for text in (f"v{n + 1}", "x")]
    letter = await bury_raw(seen, flat)
    assert len(letter) == 1000 + len(OWN)


async def test_an_endless_entry_is_buried_all_the_same(seen: Streams) -> None:
    flat = [text for n in range(20_000) for text in (f"n{n}", "x")]
    letter = await bury_raw(seen, flat)
    assert letter["f:n0"] == "x"


async def test_what_cannot_be_decoded_touches_no_content(seen: Streams) -> None:
    await seen.put_content(CID, status="moving", move_id="m")
    await bury_raw(seen, ["cid", CID, "move_id", "m"], "moves")
    assert await seen.content() == {"status": "moving", "move_id": "m"}


async def test_the_number_of_deliveries_is_told(seen: Streams) -> None:
    await seen.add_raw("views", ["x", "y"])
    (entry,) = await seen.deliver("views")
    often = RawEntry(entry.stream, P, entry.entry_id, entry.fields, deliveries=11)
    await DeadLetters(seen.scripts).bury_raw(often, DeadLetterError("consumers died"))
    assert [letter["attempts"] for letter in await seen.dead()] == ["11"]
