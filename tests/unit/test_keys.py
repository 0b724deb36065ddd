from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from shared.keys import GROUPS, WORK_STREAMS, PartitionKeys, are_of, partition_of


@pytest.mark.parametrize(
    ("cid", "crc"),
    [
        ("123456789", 0xCBF43926),  # the check value of CRC-32/ISO-HDLC
        ("a", 0xE8B7BE43),
        ("abc", 0x352441C2),
        ("The quick brown fox jumps over the lazy dog", 0x414FA339),
    ],
)
@pytest.mark.parametrize("partitions", [1, 3, 8, 1024])
def test_a_partition_is_the_published_crc32_modulo_the_number(cid: str, crc: int, partitions: int) -> None:
    assert partition_of(cid, partitions) == crc % partitions


def test_contents_are_found_where_they_were_put_years_ago() -> None:
    assert [partition_of(str(n), 8) for n in range(16)] == [1, 7, 5, 3, 0, 6, 4, 2, 3, 5, 1, 7, 5, 3, 0, 6]


@given(st.lists(st.text("abc123", min_size=1)), st.integers(1, 4))
def test_many_are_of_a_partition_where_each_is(cids: list[str], partitions: int) -> None:
    for partition in range(partitions):
        each = all(partition_of(cid, partitions) == partition for cid in cids)
        assert are_of(partition, cids, partitions) == each


def test_all_partitions_are_used() -> None:
    assert {partition_of(str(n), 8) for n in range(100)} == set(range(8))


def names_of(keys: PartitionKeys, text: str) -> list[str]:
    names = [*map(keys.stream, WORK_STREAMS), keys.dead, keys.review, keys.later, keys.counts]
    return [*names, keys.content(text), keys.seen(text), keys.idempotency(text)]


@given(st.integers(0, 1023), st.text())
@example(3, "}{0}")
@example(3, "{7}")
def test_all_keys_of_a_partition_lie_in_one_cluster_slot(partition: int, text: str) -> None:
    names = names_of(PartitionKeys(partition), text)
    assert {key_slot(name.encode()) for name in names} == {key_slot(str(partition).encode())}
    assert len(set(names)) == len(names)


@given(st.text(), st.text())
def test_no_two_partitions_share_a_key(one: str, other: str) -> None:
    assert not set(names_of(PartitionKeys(1), one)) & set(names_of(PartitionKeys(11), other))


def test_the_keys_are_those_of_the_design() -> None:
    keys = PartitionKeys(5)
    assert [keys.stream(name) for name in WORK_STREAMS] == [
        "reshelve:{5}:views",
        "reshelve:{5}:moves",
        "reshelve:{5}:placed",
        "reshelve:{5}:retires",
    ]
    assert keys.dead == "reshelve:{5}:dead"
    assert keys.content("7") == "reshelve:{5}:content:7"
    assert keys.counts == "reshelve:{5}:counts"
    assert keys.review == "reshelve:{5}:review"
    assert keys.seen("x") == "reshelve:{5}:seen:x"
    assert GROUPS == {"views": "planner", "moves": "mover", "placed": "recorder", "retires": "mover"}
