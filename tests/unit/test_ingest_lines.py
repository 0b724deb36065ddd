"""Views told by lines that came before amount to what the parsers make of them, or are left to the parsers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest import lines as lines_module
from services.ingest import payloads
from services.ingest.lines import Lines
from services.ingest.payloads import Intake
from shared.levels import COUNT_MAX
from shared.messages import Tally

PARTITIONS = 8


def summed(lines: Lines, bodies: Sequence[bytes]) -> dict[int, Tally] | None:
    found = [lines.of(body) for body in bodies]
    return lines.sums(Counter(line for each in found for line in each)) if all(found) else None


def parsed(bodies: Sequence[bytes]) -> dict[int, Tally]:
    whole: dict[int, Tally] = {}
    for body in bodies:
        intake = payloads.fold_lines(body, PARTITIONS)
        assert intake.rejected_total == 0
        for partition, tally in intake.tallies.items():
            whole.setdefault(partition, Tally.empty()).merge(tally)
    return whole


def test_lines_are_counted_as_they_are_parsed() -> None:
    bodies = [b'{"cid":"7"}\n{"cid":"8","views":3}\r\n{"cid": "7", "at": [1]}\n', b'{"cid":"9"}\n{"cid":"7"}']
    lines = Lines(PARTITIONS)
    for _ in range(3):
        assert summed(lines, bodies) == parsed(bodies)


def test_a_body_of_one_view_is_a_line_too() -> None:
    lines = Lines(PARTITIONS)
    for body in (b'{"cid":"7"}', b'{"cid":\n"7",\n"views": 2}\n', b' {"cid":"7"}'):
        found = lines.one(body)
        assert not found or lines.sums(Counter(found)) == payloads.parse_json(body, PARTITIONS).tallies
    assert lines.one(b'{"cid":"7"\n"views":2}') == lines.one(b'[{"cid":"7"}]') == lines.one(b'{"cid":"7"},') == []


@pytest.mark.parametrize(
    "line",
    [
        b"", b" ", b"7", b"{}", b"not json", b'{"cid":7}', b'{"cid":"a b"}', b'{"cid":"7\\n"}',
        b'{"cid":"' + b"a" * 65 + b'"}', b'{"cid":"7","more":"' + b"x" * 300 + b'"}',
        b'{"cid":"7","views":0}', b'{"cid":"7","views":true}', b'{"cid":"7","views":3.0}', b'{"cid":"7","count":3}',
        b'{"cid":"7"},{"cid":"8"}', b'{"cid":"7"},8', b'{"cid":"7","more":{}}',
        b'[{"cid":"7"}]', b'"\\u007b"', b"\xff", b' {"cid":"7"}', b'{"cid":"\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_not_certain_is_left_to_the_parsers(line: bytes) -> None:
    lines = Lines(PARTITIONS)
    for body in (line, b'{"cid":"7"}\n' + line + b'\n{"cid":"8"}', line + b'\n{"cid":"8"}'):
        assert lines.of(body) == []
    assert lines.of(b'{"cid":"7"}\n{"cid":"8"}') == [b'{"cid":"7"}', b'{"cid":"8"}']


FRAGMENTS = [
    '{"cid":"1"', '{"cid":"2","views":3}', '"views":3', '"count":5', ",", "\n", "\n", "}", "{", "{}", "[", "]", "],[",
    '"', "\\", '\\"', ":", " ", "\r", "\t", "null", "7", '"x":[', '"cid":"2"', '{"cid":"3","count":7}', "\u2028", "\0",
    '{"cid":"1"}\n', '{"cid":"2"}\n', '{"cid":"1","x":[1\n',
]  # fmt: skip


@given(st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join), max_size=4))
@example(['{"cid":"1","x":[1\n{}]}\n{"cid":"2"},7'])
def test_hostile_lines_are_never_read_otherwise_than_one_by_one(texts: list[str]) -> None:
    lines = Lines(PARTITIONS, limit=8)
    for body in map(str.encode, texts):
        found = lines.of(body)
        if found:
            assert lines.sums(Counter(found)) == payloads.fold_lines(body, PARTITIONS).tallies
        alone = lines.one(body)
        if alone:
            assert lines.sums(Counter(alone)) == payloads.parse_json(body, PARTITIONS).tallies


def test_a_sum_beyond_the_largest_count_stops_there() -> None:
    line = b'{"cid":"7","views":1000000000}'
    [tally] = Lines(PARTITIONS).sums(Counter({line: COUNT_MAX // 10**9 + 1})).values()
    assert tally.add == {"7": COUNT_MAX}


def test_what_is_remembered_is_bounded_and_may_be_forgotten_before_it_is_summed() -> None:
    lines = Lines(PARTITIONS, limit=100)
    bodies = [b"\n".join(b'{"cid":"%d"}' % (n % 130) for n in range(at, at + 40)) for at in range(0, 400, 40)]
    for _ in range(3):
        found = [lines.of(body) for body in bodies]
        if all(found):
            assert lines.sums(Counter(line for each in found for line in each)) == parsed(bodies)
        assert len(lines._known) + len(lines._before) <= 100


def test_what_is_asked_for_again_and_again_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed_lines: Counter[bytes] = Counter()

    def recorded(new: Collection[bytes]) -> Any:
        parsed_lines.update(new)
        return read(new)

    read = lines_module._read
    monkeypatch.setattr(lines_module, "_read", recorded)
    lines = Lines(PARTITIONS, limit=100)
    popular = [b'{"cid":"p%d"}' % n for n in range(20)]
    for at in range(0, 1000, 10):
        assert lines.of(b"\n".join(popular)) == popular
        assert lines.of(b"\n".join(b'{"cid":"%d"}' % n for n in range(at, at + 10)))
    assert len(parsed_lines) == 1020
    assert {parsed_lines[line] for line in popular} == {1}


def test_lines_that_never_come_twice_are_not_learned_for_a_while() -> None:
    lines = Lines(PARTITIONS, limit=1000)
    taken = [
        bool(lines.of(b"\n".join(b'{"cid":"7","at":%d}' % n for n in range(at, at + 100))))
        for at in range(0, 10**5, 100)
    ]
    assert taken[0]
    assert 0 < sum(taken) < 100


def test_a_body_that_is_left_to_the_parsers_changes_nothing() -> None:
    lines = Lines(PARTITIONS)
    items = [{"cid": "7"}, {"cid": "7", "count": 5}]
    assert lines.of(b"\n".join(map(orjson.dumps, items))) == []
    assert lines.sums({}) == {}
    assert Intake(1, lines=[b"x"]).accepted == 1
