"""Bodies of views: what is accepted, what is rejected, and that the fast path says what the slow one says."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest import payloads
from services.ingest.payloads import Intake, TooManyError, UnsupportedError, format_of, parse_json, parse_ndjson
from shared.errors import InvalidError
from shared.keys import partition_of
from shared.levels import COUNT_MAX
from shared.messages import Tally

PARTITIONS = 8


def whole(intake: Intake) -> tuple[dict[str, int], dict[str, int]]:
    """Increments and totals over all partitions, each cid in its own."""
    added: dict[str, int] = {}
    totals: dict[str, int] = {}
    for partition, tally in intake.tallies.items():
        assert {partition_of(cid, PARTITIONS) for cid in [*tally.add, *tally.set]} == {partition}
        added |= tally.add
        totals |= tally.set
    return added, totals


def errors(intake: Intake) -> dict[int, str]:
    return {item["index"]: item["error"] for item in intake.rejected}


def test_views_are_summed_and_totals_replace() -> None:
    body = orjson.dumps(
        [{"cid": "7"}, {"cid": "7", "views": 3}, {"cid": "8", "views": 5}, {"cid": "8", "count": 9}, {"cid": "8"}]
    )
    intake = parse_json(body, PARTITIONS)
    assert whole(intake) == ({"7": 4}, {"8": 10})
    assert (intake.accepted, intake.accepted_views, intake.accepted_counts, intake.rejected) == (5, 4, 1, [])


def test_one_object_is_one_view() -> None:
    assert whole(parse_json(b'{"cid": "a.B_c:d-1", "count": 0}', PARTITIONS)) == ({}, {"a.B_c:d-1": 0})


def test_unknown_members_are_ignored() -> None:
    assert whole(parse_json(b'{"cid": "7", "at": [1, {"views": true}]}', PARTITIONS)) == ({"7": 1}, {})


def test_empty_array_is_nothing() -> None:
    assert parse_json(b"[]", PARTITIONS) == parse_ndjson(b" \r\n\n", PARTITIONS) == Intake()


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({}, "cid is missing"),
        ({"cid": 7}, "cid must be a string, got int"),
        ({"cid": None}, "cid must be a string"),
        ({"cid": ["7"]}, "cid must be a string"),
        ({"cid": ""}, "is not 1-64 characters"),
        ({"cid": "a b"}, "is not 1-64 characters"),
        ({"cid": "7\n"}, "is not 1-64 characters"),
        ({"cid": "7\n8"}, "is not 1-64 characters"),
        ({"cid": "a" * 65}, "is not 1-64 characters"),
        ({"cid": "é"}, "is not 1-64 characters"),
        ({"cid": "7", "views": 0}, "views must be an integer from 1 to 1000000000, got 0"),
        ({"cid": "7", "views": -1}, "views must be an integer"),
        ({"cid": "7", "views": 1_000_000_001}, "views must be an integer"),
        ({"cid": "7", "views": True}, "views must be an integer from 1 to 1000000000, got True"),
        ({"cid": "7", "views": 1.5}, "views must be an integer"),
        ({"cid": "7", "views": "3"}, "views must be an integer"),
        ({"cid": "7", "views": None}, "views must be an integer"),
        ({"cid": "7", "views": {}}, "got a JSON dict"),
        ({"cid": "7", "count": -1}, "count must be an integer from 0"),
        ({"cid": "7", "count": COUNT_MAX + 1}, "count must be an integer from 0"),
        ({"cid": "7", "count": False}, "count must be an integer from 0"),
        ({"cid": "7", "count": 1, "views": 1}, "both views and count"),
        ({"cid": "7", "count": None, "views": 1}, "both views and count"),
        ([], "must be an object"),
        ("cid", "must be an object"),
        (None, "must be an object"),
        (7, "must be an object"),
    ],
)
def test_a_bad_view_is_rejected_and_the_others_are_not(item: Any, error: str) -> None:
    good = {"cid": "ok", "views": 2}
    for intake in (
        parse_json(orjson.dumps([good, item, good]), PARTITIONS),
        parse_ndjson(b"\n".join(map(orjson.dumps, [good, item, good])), PARTITIONS),
    ):
        assert whole(intake) == ({"ok": 4}, {})
        assert intake.accepted == 2
        assert error in errors(intake)[1]


@pytest.mark.parametrize("number", [b"18446744073709551616", b"1e30", b"-0.0", b"1000000000.5"])
def test_numbers_that_are_no_sound_integers(number: bytes) -> None:
    assert parse_json(b'{"cid": "7", "views": %b}' % number, PARTITIONS).rejected_total == 1


@pytest.mark.parametrize("number", [b"3", b"3.0", b"3e0", b"0.3e1"])
def test_an_integer_may_be_written_as_json_allows(number: bytes) -> None:
    assert whole(parse_json(b'{"cid": "7", "views": %b}' % number, PARTITIONS)) == ({"7": 3}, {})


@pytest.mark.parametrize("body", [b"", b"{", b"7", b'"7"', b"null", b"[1,]", b"\xff", b"\xef\xbb\xbf[]", b"[" * 5000])
def test_a_malformed_body(body: bytes) -> None:
    with pytest.raises(InvalidError):
        parse_json(body, PARTITIONS)


def test_a_malformed_line_is_rejected_by_its_index_among_lines_that_are_not_blank() -> None:
    body = b'\n{"cid":"7"}\r\n\n  \nnot json\n\xff\n{"cid":"8","views":2}'
    intake = parse_ndjson(body, PARTITIONS)
    assert whole(intake) == ({"7": 1, "8": 2}, {})
    assert errors(intake).keys() == {1, 2}
    assert "line is not JSON" in errors(intake)[1]


@pytest.mark.parametrize(
    "body",
    [
        b'{"cid":"1"\n"views":3}\n{"cid":"a"},{"cid":"b"}',  # three lines, three items when joined
        b'{"cid":"1","x":[{}\n{}]}\n{},{}',
        b'{"cid":"1","cid":[{}\n{}],"cid":"2"}',
        b'{"cid":"1","x":[1\n{}]}\n{"cid":"2"},7',  # as many braces as lines, and as many items when joined
        b'{"cid":"1","x":"a\n{b"}',
        b'{"cid":"1"}],[{"cid":"2"}\n{"cid":"3"}',
        b'{"cid":"1"},\n{"cid":"2"}',
        b'{"cid":"1"}\n,{"cid":"2"}',
        b'{"cid":"1"}\n{"cid":"2"},',
    ],
)
def test_lines_that_mean_something_else_when_joined_are_read_one_by_one(body: bytes) -> None:
    intake = parse_ndjson(body, PARTITIONS)
    assert intake == payloads.fold_lines(body, PARTITIONS)
    assert intake.rejected_total > 0


FRAGMENTS = [
    '{"cid":"1"', '{"cid":"2","views":3}', '"views":3', '"count":5', ",", "\n", "\n", "}", "{", "{}", "[", "]", "],[",
    '"', "\\", '\\"', ":", " ", "\r", "\t", "null", "7", '"x":[', '"cid":"2"', '{"cid":"3","count":7}', "\u2028", "\0",
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
@example('{"cid":"1"\n"views":3}\n{"cid":"2"},{"cid":"3"}')
def test_fast_and_slow_path_agree_on_hostile_lines(text: str) -> None:
    body = text.encode()
    assert parse_ndjson(body, PARTITIONS) == payloads.fold_lines(body, PARTITIONS)


cids = st.sampled_from(["7", "8", "a", "b:c", "Z" * 64]) | st.text(max_size=4)
numbers = (
    st.integers(-1, 3)
    | st.sampled_from([2.0, 2.5, 1e300])
    | st.sampled_from([10**9, COUNT_MAX, COUNT_MAX + 1])
    | st.booleans()
    | st.none()
)
views = st.fixed_dictionaries({}, optional={"cid": cids, "views": numbers, "count": numbers, "more": st.integers(0, 9)})
sound = st.fixed_dictionaries({"cid": st.sampled_from("789")}, optional={"views": st.integers(1, 10**9)}) | (
    st.fixed_dictionaries({"cid": st.sampled_from("789"), "count": st.integers(COUNT_MAX - 9, COUNT_MAX)})
)


@given(st.lists(views | sound, max_size=12) | st.lists(sound, max_size=40))
def test_all_ways_into_the_sums_agree(items: list[dict[str, Any]]) -> None:
    slow = Intake()
    for index, item in enumerate(items):
        try:
            payloads.fold_item(item, PARTITIONS, slow)
        except InvalidError as error:
            slow.reject(index, str(error))
    assert parse_json(orjson.dumps(items), PARTITIONS) == slow
    assert parse_ndjson(b"\n".join(map(orjson.dumps, items)), PARTITIONS) == slow
    for tally in slow.tallies.values():
        assert Tally.unpack(tally.pack()) == tally


@given(st.binary(max_size=60))
def test_no_bytes_crash_a_parser(body: bytes) -> None:
    parse_ndjson(body, PARTITIONS)
    with suppress(InvalidError):
        parse_json(body, PARTITIONS)


def test_the_list_of_rejections_is_bounded() -> None:
    intake = parse_json(orjson.dumps([{}] * 150), PARTITIONS)
    assert (len(intake.rejected), intake.rejected_total) == (100, 150)


def test_too_many_views() -> None:
    most = payloads.ITEMS_MAX
    assert parse_ndjson(b'{"cid":"7"}\n' * most, PARTITIONS).accepted == most
    with pytest.raises(TooManyError):
        parse_ndjson(b'{"cid":"7"}\n' * (most + 1), PARTITIONS)
    with pytest.raises(TooManyError):
        parse_json(b"[" + b"0," * most + b"0]", PARTITIONS)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("application/json", "json"),
        ("Application/JSON; charset=UTF-8", "json"),
        ('application/x-ndjson;charset="utf-8"', "ndjson"),
        ("application/cloudevents+json; x=y", "cloudevent"),
        ("application/cloudevents-batch+json", "cloudevents"),
    ],
)
def test_content_types(header: str, expected: str) -> None:
    assert format_of(header) == expected


@pytest.mark.parametrize("header", ["", "text/plain", "application/json; charset=latin-1", "application/xml", "é"])
def test_content_types_that_are_not_understood(header: str) -> None:
    with pytest.raises(UnsupportedError):
        format_of(header)
