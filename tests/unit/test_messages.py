from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.errors import InvalidError
from shared.levels import COUNT_MAX
from shared.messages import METHODS, Move, Placed, Retire, Tally, unpack_views
from tests.samples import a_move, a_placed, a_retire, retire_of

Message = Move | Placed | Retire

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NUMBER = st.integers(0, COUNT_MAX)
SECONDS = st.floats(0, 1e9)


def as_entry(message: Message) -> dict[bytes, bytes]:
    """As it comes back from Redis."""
    flat = message.wire()
    return {name.encode(): value.encode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


ORDER: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        ("move_id", "filename", "from_level", "to_level", "from_path", "to_path", "why"),
        TEXT,
    ),
    **dict.fromkeys(("count", "viewed_at", "planned_at"), NUMBER),
    "cid": st.from_regex(r"\A[A-Za-z0-9._:-]{1,64}\Z"),
}
WORD: dict[str, st.SearchStrategy[Any]] = {
    **ORDER,
    **dict.fromkeys(("digest", "mover", "source_id", "target_id"), TEXT),
    **dict.fromkeys(("bytes", "attempts", "placed_at"), NUMBER),
    "method": st.sampled_from(METHODS),
    "seconds": SECONDS,
}
MESSAGES: st.SearchStrategy[Message] = (
    st.builds(Move, **ORDER) | st.builds(Placed, **WORD) | st.builds(Retire, **WORD, not_before=NUMBER)
)


@given(MESSAGES)
def test_a_message_comes_back_as_it_was_sent(message: Message) -> None:
    assert type(message).parse(as_entry(message)) == message


def test_the_wire_has_the_names_of_the_design() -> None:
    order = "move_id cid filename from to from_path to_path count why viewed_at planned_at"
    word = (
        "move_id cid filename from to from_path to_path count why bytes digest method seconds mover attempts "
        "source_id target_id viewed_at planned_at placed_at"
    )
    for message, names in ((a_move("7"), order), (a_placed("7"), word), (a_retire("7"), word)):
        entry = as_entry(message)
        assert list(entry)[:3] == [b"move_id", b"cid", b"body"]
        assert list(orjson.loads(entry[b"body"])) == names.split()
    assert list(as_entry(a_retire("7")))[3:] == [b"not_before"]


def test_a_retire_is_written_as_the_placed_copy_that_it_follows() -> None:
    placed = a_placed("7")
    assert retire_of(placed, 5).wire() == [*placed.wire(), "not_before", "5"]


NUMBERS = {"count", "viewed_at", "planned_at", "bytes", "attempts", "placed_at"}
SAMPLES: list[Message] = [a_move("7"), a_placed("7"), a_retire("7")]
FIELDS = [(sample, name) for sample in SAMPLES for name in as_entry(sample)]
VALUES = [(sample, name) for sample in SAMPLES for name in orjson.loads(as_entry(sample)[b"body"])]


def name_of(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else type(value).__name__


def with_value(message: Message, name: str, value: object) -> dict[bytes, bytes]:
    """As it comes back from Redis, with a value of the body changed."""
    entry = as_entry(message)
    return entry | {b"body": orjson.dumps(orjson.loads(entry[b"body"]) | {name: value})}


@pytest.mark.parametrize(("message", "name"), FIELDS, ids=name_of)
def test_a_missing_field_is_named(message: Message, name: bytes) -> None:
    entry = as_entry(message)
    del entry[name]
    with pytest.raises(InvalidError, match=f"^field '{name.decode()}' is missing$"):
        type(message).parse(entry)


@pytest.mark.parametrize(("message", "name"), VALUES, ids=name_of)
def test_a_missing_value_is_named(message: Message, name: str) -> None:
    entry = as_entry(message)
    body = orjson.loads(entry[b"body"])
    del body[name]
    with pytest.raises(InvalidError, match=f"^field '{name}' is missing$"):
        type(message).parse(entry | {b"body": orjson.dumps(body)})


@pytest.mark.parametrize(("message", "name"), FIELDS, ids=name_of)
def test_a_field_that_is_not_text_is_named(message: Message, name: bytes) -> None:
    with pytest.raises(InvalidError, match=f"^field '{name.decode()}' is not "):
        type(message).parse(as_entry(message) | {name: b"\xff\xfe"})


@pytest.mark.parametrize("value", [None, True, [], {}, ["x"]])
@pytest.mark.parametrize(("message", "name"), VALUES, ids=name_of)
def test_a_value_of_a_foreign_kind_is_named(message: Message, name: str, value: object) -> None:
    with pytest.raises(InvalidError, match=f"^field '{name}' is not "):
        type(message).parse(with_value(message, name, value))


@pytest.mark.parametrize("body", [b"", b"x", b"7", b"null", b"[]", b'"text"', b"[" * 60_000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidError, match=r"^field 'body' is not "):
        Move.parse(as_entry(a_move("7")) | {b"body": body})


def test_a_text_that_no_service_writes_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"^field 'body' has 100\d{3} bytes") as refused:
        Move.parse(with_value(a_move("7"), "why", "x" * 100_000))
    assert len(str(refused.value)) < 200


def test_a_long_text_comes_back() -> None:
    move = replace(a_move("7"), why="w" * 10_000, filename="f" * 10_000)
    assert Move.parse(as_entry(move)) == move


BAD_NUMBERS = [
    b"",
    b"x",
    b"1.5",
    b"-1",
    b"1e3",
    b"nan",
    b"1_0",
    b" 1",
    b"1\n",
    b"9" * 5000,
    b"%d" % 2**53,
    b"%d" % 10**30,
]


@pytest.mark.parametrize("raw", BAD_NUMBERS)
def test_a_number_beside_the_body_that_no_service_writes_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidError, match=r"^field 'not_before' is not a number") as refused:
        Retire.parse(as_entry(a_retire("7")) | {b"not_before": raw})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("value", [-1, 1.5, "1", 2**53, 2**63, 10**15 + 0.5])
@pytest.mark.parametrize(("message", "name"), [f for f in VALUES if f[1] in NUMBERS], ids=name_of)
def test_a_number_that_no_service_writes_is_refused(message: Message, name: str, value: object) -> None:
    with pytest.raises(InvalidError, match=f"^field '{name}' is not as it must be: Expected `int`"):
        type(message).parse(with_value(message, name, value))


@pytest.mark.parametrize("value", ["", "1.5", -1, -0.1, True])
def test_a_duration_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidError, match=r"^field 'seconds' is not as it must be: Expected `float`"):
        Placed.parse(with_value(a_placed("7"), "seconds", value))


def test_a_duration_may_be_a_whole_number() -> None:
    assert Placed.parse(with_value(a_placed("7"), "seconds", 3)).seconds == 3.0


@pytest.mark.parametrize("number", [b"1e999", b"9" * 5000, b"-0.0"])
def test_a_number_that_no_language_holds_is_refused(number: bytes) -> None:
    entry = as_entry(a_move("7"))
    with pytest.raises(InvalidError, match=r"^field 'count' is not ") as refused:
        Move.parse(entry | {b"body": entry[b"body"].replace(b'"count":1500', b'"count":' + number)})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("text", [b"\\ud800", b"\xff", b"\n"])
def test_a_text_that_is_none_is_refused(text: bytes) -> None:
    entry = as_entry(a_move("7"))
    with pytest.raises(InvalidError, match=r"^field 'body' is not JSON"):
        Move.parse(entry | {b"body": entry[b"body"].replace(b"dir/", text)})


def test_nothing_may_follow_the_body() -> None:
    entry = as_entry(a_move("7"))
    with pytest.raises(InvalidError, match=r"^field 'body' is not JSON"):
        Move.parse(entry | {b"body": entry[b"body"] + b"}"})


@pytest.mark.parametrize("name", [b"move_id", b"cid"])
def test_the_fields_beside_the_body_say_the_same_as_it(name: bytes) -> None:
    with pytest.raises(InvalidError, match=f"^field '{name.decode()}' is not the body's: b'another'"):
        Move.parse(as_entry(a_move("7")) | {name: b"another"})


def test_a_method_that_no_mover_has_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"^field 'method' is not "):
        Placed.parse(with_value(a_placed("7"), "method", "teleport"))


def test_a_field_of_a_later_version_is_passed_over() -> None:
    move = a_move("7")
    assert Move.parse(as_entry(move) | {b"later": b"1"}) == move
    assert Move.parse(with_value(move, "later", 1)) == move


def test_the_largest_number_comes_back_exactly() -> None:
    move = replace(a_move("7"), count=COUNT_MAX)
    assert Move.parse(as_entry(move)).count == COUNT_MAX


# --- tallies ----------------------------------------------------------------------------------------------------------

CIDS = st.sampled_from(["a", "b", "c"])
SMALL = st.integers(0, 5)
LARGE = st.integers(0, COUNT_MAX)
EVENTS = st.tuples(CIDS, st.sampled_from(["add", "set"]), SMALL | LARGE)


def tally_of(events: Sequence[tuple[str, str, int]]) -> Tally:
    tally = Tally.empty()
    for cid, kind, n in events:
        if kind == "add":
            tally.views(cid, n)
        else:
            tally.total(cid, n)
    return tally


def counts_after(events: Sequence[tuple[str, str, int]]) -> dict[str, int]:
    """The naive fold: one counter per content, each event applied to it in order."""
    counts: dict[str, int] = {}
    for cid, kind, n in events:
        counts[cid] = min(counts.get(cid, 0) + n, COUNT_MAX) if kind == "add" else n
    return counts


def applied(tally: Tally) -> dict[str, int]:
    """What a tally makes of contents that had no views."""
    assert not tally.add.keys() & tally.set.keys()
    return {**tally.add, **tally.set}


def merged(*tallies: Tally) -> Tally:
    result = Tally.empty()
    for tally in tallies:
        result.merge(tally)
    return result


@given(st.lists(EVENTS, max_size=30))
def test_a_tally_is_the_fold_of_its_events_in_their_order(events: list[tuple[str, str, int]]) -> None:
    assert applied(tally_of(events)) == counts_after(events)


@given(st.lists(EVENTS, max_size=30))
def test_a_content_has_a_total_as_soon_as_one_total_came(events: list[tuple[str, str, int]]) -> None:
    tally = tally_of(events)
    assert tally.set.keys() == {cid for cid, kind, _ in events if kind == "set"}
    assert bool(tally) == bool(events)


@given(st.lists(st.lists(EVENTS, max_size=8), max_size=6))
def test_it_does_not_matter_how_the_events_are_cut_into_batches(batches: list[list[tuple[str, str, int]]]) -> None:
    whole = tally_of([event for batch in batches for event in batch])
    assert merged(*(tally_of(batch) for batch in batches)) == whole


@given(*[st.lists(EVENTS, max_size=8).map(tally_of)] * 3)
def test_merging_is_associative(first: Tally, second: Tally, third: Tally) -> None:
    assert merged(merged(first, second), third) == merged(first, merged(second, third))


@given(st.lists(EVENTS, max_size=8).map(tally_of), st.lists(EVENTS, max_size=8).map(tally_of))
def test_merging_leaves_the_later_tally_as_it_was(earlier: Tally, later: Tally) -> None:
    before = Tally(dict(later.add), dict(later.set))
    earlier.merge(later)
    assert later == before


@given(st.lists(EVENTS, max_size=20).map(tally_of))
def test_a_tally_comes_back_as_it_was_packed(tally: Tally) -> None:
    assert Tally.unpack(tally.pack()) == tally


def test_a_packed_tally_reads_as_the_design_says() -> None:
    assert orjson.loads(Tally({"7": 3}, {"8": 1964}).pack()) == {"add": {"7": 3}, "set": {"8": 1964}}
    assert Tally({"7": 3}, {}).pack() == b'{"add":{"7":3}}'


@pytest.mark.parametrize(
    "packed",
    [
        b"", b"x", b"{", b"null", b"[]", b"7", b'"a"', b'{"sub":{}}', b'{"add":{"a":1},"sub":{}}', b'{"add":[]}',
        b'{"add":null}', b'{"set":"a"}', b'{"add":{"a":"1"}}', b'{"add":{"a":1.0}}', b'{"add":{"a":true}}',
        b'{"add":{"a":null}}', b'{"add":{"a":-1}}', b'{"set":{"a":9007199254740992}}', b'{"set":{"a":1e999}}',
        b'{"set":{"a":99999999999999999999999}}', b'{"add":{"":1}}', b'{"add":{"a b":1}}', b'{"add":{"a\\n":1}}',
        b'{"add":{"\\u00e9":1}}', b'{"add":{"a":1},"set":{"a":5}}', b"\xff",
        b'{"add":{"' + b"a" * 65 + b'":1}}',
    ],
)  # fmt: skip
def test_a_tally_that_pack_would_not_write_is_refused(packed: bytes) -> None:
    with pytest.raises(InvalidError):
        Tally.unpack(packed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["add", "set", "a", "é"]), inner),
)


@given(st.binary() | JSON.map(orjson.dumps))
def test_whatever_is_unpacked_is_a_tally_or_refused(packed: bytes) -> None:
    try:
        tally = Tally.unpack(packed)
    except InvalidError:
        return
    assert Tally.unpack(tally.pack()) == tally


def test_the_parts_of_an_entry_are_added_up_in_their_order() -> None:
    entry = {b"v1": b'{"add":{"a":1}}', b"v2": b'{"set":{"a":10,"b":4}}', b"v3": b'{"add":{"a":2}}', b"v4": b"{}"}
    assert unpack_views(entry) == Tally({}, {"a": 12, "b": 4})


@pytest.mark.parametrize("name", [b"v", b"1", b"v1x", b"w1", b"v-1", b"", b"v\xb2"])
def test_an_entry_with_a_foreign_field_is_refused(name: bytes) -> None:
    with pytest.raises(InvalidError, match="foreign field"):
        unpack_views({b"v1": b'{"add":{"a":1}}', name: b'{"add":{"a":1}}'})


def test_an_entry_without_views_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"^views entry is empty$"):
        unpack_views({})
