"""Lines that are alike amount to what they are one by one, or are left to the parsers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest import payloads
from services.ingest.alike import lines_alike, one_view
from services.ingest.payloads import Intake
from services.ingest.sums import Increments, spread
from shared.levels import COUNT_MAX
from shared.messages import Tally

PARTITIONS = 8


def summed(increments: Increments) -> dict[int, Tally]:
    sums: Counter[str] = Counter()
    increments.add_to(sums)
    return spread(sums, PARTITIONS)


def one_by_one(body: bytes) -> dict[int, Tally]:
    intake = payloads.fold_lines(body, PARTITIONS)
    assert intake.rejected_total == 0
    return intake.tallies


LAYOUTS: list[Callable[[str, int], str]] = [
    lambda cid, _: f'{{"cid":"{cid}"}}',
    lambda cid, _: f'{{"x":"{cid}","cid":"{cid}"}}',
    lambda cid, _: f' {{ "at" : [1,{{}}], "cid" : "{cid}" , "who":"\\u00e9\\"" }}\r',
    lambda cid, _: f'{{"cid":"{cid}","note":"é"}}',
    lambda cid, _: f'{{"cid":"no","cid":"{cid}"}}',
    lambda cid, n: f'{{"cid":"{cid}","views":{n}}}',
    lambda cid, n: f'{{"views" : {n}, "cid": "{cid}"}}',
    lambda cid, n: f'{{"cid":"{cid}","at":7,"views":{n},"more":{{"a":[]}}}}',
    lambda cid, n: f'{{"more":{{"views":5}},"cid":"{cid}","n":{n % 2}}}',
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("end", ["", "\n"])
def test_lines_that_are_alike_are_counted_as_they_are_parsed(layout: Callable[[str, int], str], end: str) -> None:
    cids = ["7", "8", "7", "cid", "views", "at", "a" * 64, "A.b_c:d-1", "8", "no", "7"]
    body = ("\n".join(layout(cid, 1 + n) for n, cid in enumerate(cids)) + end).encode()
    found = lines_alike(body)
    assert found is None or summed(found) == one_by_one(body)


@pytest.mark.parametrize(
    "line", ['{"cid":"%s"}', ' {"cid": "%s", "at": [1, {}]}\r', '{"cid":"%s","views":3}', '{"views": 3,"cid":"%s"}']
)  # fmt: skip
def test_the_usual_layouts_are_read_at_one_go(line: str) -> None:
    body = "\n".join(line % cid for cid in ("7", "cid", "views", "7")).encode()
    found = lines_alike(body)
    assert found is not None
    assert list(found.cids) == ["7", "cid", "views", "7"]


def test_a_number_may_differ_from_line_to_line() -> None:
    found = lines_alike(b'{"cid":"7","views":3}\n{"cid":"8","views":999999999}\n{"cid":"7","views":1}\n')
    assert found == Increments(("7", "8", "7"), [3, 999_999_999, 1])


@pytest.mark.parametrize(
    "line",
    [
        b"", b" ", b"7", b"{}", b"not json", b'{"cid":7}', b'{"cid":"a b"}', b'{"cid":"7\\n"}', b'{"cid":""}',
        b'{"cid":"' + b"a" * 65 + b'"}', b'{"cid":"7","more":"' + b"x" * 300 + b'"}', b'{"cid":"\xe9"}',
        b'{"cid":"7","views":0}', b'{"cid":"7","views":true}', b'{"cid":"7","views":3.0}', b'{"cid":"7","count":3}',
        b'{"cid":"7","views":03}', b'{"cid":"7","views":1000000000}', b'{"cid":"7","views":1000000001}',
        b'{"cid":"7","views":3e0}', b'{"cid":"7","views":-1}', b'{"cid":"7","views":"3"}',
        b'{"cid":"7"},{"cid":"8"}', b'{"cid":"7"},8', b'[{"cid":"7"}]', b'"\\u007b"', b"\xff", b' {"cid":"7"}',
        b'{"cid":"\\ud800"}', b'{"cid":"\\u0037"}', b'{"cid":"7"}\r', b'{"cid":"7","cid":"8"}', b'{"cid":"7" }',
    ],
)  # fmt: skip
def test_what_is_not_certain_is_left_to_the_parsers(line: bytes) -> None:
    for other in (b'{"cid":"7"}', b'{"cid":"7","views":3}'):
        for body in (other + b"\n" + line + b"\n" + other, line + b"\n" + other, other + b"\n" + line + b"\n"):
            if line + b"\n" != other + b"\n":
                assert lines_alike(body) is None


@pytest.mark.parametrize(
    "body",
    [b'{"cid":"7"}', b'{"cid":\n"7",\n"views": 2}\n', b'{"cid":"7","views":1000000000,"more":[{}]}'],
)
def test_a_body_of_one_view(body: bytes) -> None:
    found = one_view(body)
    assert found is not None
    assert summed(found) == payloads.parse_json(body, PARTITIONS).tallies


@pytest.mark.parametrize(
    "body",
    [
        b"", b" {}", b"{}", b'[{"cid":"7"}]', b'{"cid":"7"},', b'{"cid":"7"\n"views":2}', b'{"cid":"7","count":5}',
        b"\xff", b'{"cid":7}', b'{"cid":["7"]}', b'{"cid":"7","views":0}', b'{"cid":"7","views":1000000001}',
        b'{"cid":"7","views":true}',
    ],
)  # fmt: skip
def test_a_body_that_is_not_one_sound_increment_is_left_to_the_parsers(body: bytes) -> None:
    assert one_view(body) is None


FRAGMENTS = [
    '{"cid":"1"', '{"cid":"2","views":3}', '"views":3', '"count":5', ",", "\n", "\n", "}", "{", "{}", "[", "]", "],[",
    '"', "\\", '\\"', ":", " ", "\r", "\t", "null", "7", '"x":[', '"cid":"2"', '{"cid":"3","count":7}', "\u2028", "\0",
    '{"cid":"1"}\n', '{"cid":"2"}\n', '{"cid":"1","x":[1\n', '{"cid":"1","views":1}\n', '{"cid":"2","views":12}\n',
    '"views":987654321', '"cid":"another-cid.to:put_there"',
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
@example('{"cid":"1","x":[1\n{}]}\n{"cid":"2"},7')
@example(
    '{"x":"another-cid.to:put_there","cid":"another-cid.to:put_there"}\n{"x":"1","cid":"another-cid.to:put_there"}'
)
@example('{"x":{"views":5},"cid":"1","views":987654321}\n{"x":{"views":6},"cid":"1","views":987654321}')
@example('{"x":"1","cid":"1"}\n{"x":"2","cid":"1"}')
@example('{"cid":"1","x":"\\"1"}\n{"cid":"1","x":"\\"2"}')
def test_hostile_lines_are_never_read_otherwise_than_one_by_one(text: str) -> None:
    body = text.encode()
    found = lines_alike(body)
    if found:
        assert summed(found) == one_by_one(body)
    alone = one_view(body)
    if alone:
        assert summed(alone) == payloads.parse_json(body, PARTITIONS).tallies


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join), st.lists(st.sampled_from("127ax:"), min_size=2))
def test_a_line_with_other_cids_in_it_is_never_read_otherwise(line: str, others: list[str]) -> None:
    """As lines that are alike really are: the same text but for what may be a cid or a number."""
    body = "\n".join(line.replace("\n", "").replace("1", other) for other in others).encode()
    found = lines_alike(body)
    if found:
        assert summed(found) == one_by_one(body)


def test_a_sum_beyond_the_largest_count_stops_there() -> None:
    sums = Counter({"7": COUNT_MAX - 1})
    Increments(["7", "7"], [1, 10**9]).add_to(sums)
    assert [tally.add for tally in spread(sums, PARTITIONS).values()] == [{"7": COUNT_MAX}]


def test_more_lines_than_a_body_may_hold_are_left_to_the_parsers() -> None:
    most = payloads.ITEMS_MAX
    found = lines_alike(b'{"cid":"7"}\n' * most)
    assert found is not None
    assert len(found.cids) == most
    assert lines_alike(b'{"cid":"7"}\n' * (most + 1)) is None
    assert Intake(1, increments=found).accepted == 1
