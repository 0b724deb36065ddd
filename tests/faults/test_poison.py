"""Entries that no service of ours wrote: each ends as a dead letter with a reason, and the work behind it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from shared.keys import StreamName
from tests.faults.house import PARTITION_KEYS, PARTITIONS, House, until
from tests.samples import a_move, a_placed, a_retire, cids_of

Fields = Mapping[bytes, bytes]
_HUGE = b"x" * 10_000_000
CID, ELSEWHERE = cids_of(0, 1, PARTITIONS)[0], cids_of(1, 1, PARTITIONS)[0]


def wire(message: Any, **changes: bytes | None) -> Fields:
    """As it lies on its stream, with fields changed, or left out (None)."""
    flat = [part.encode() for part in message.wire()]
    fields = dict(zip(flat[::2], flat[1::2], strict=True)) | {name.encode(): value for name, value in changes.items()}
    return {name: value for name, value in fields.items() if value is not None}


def packed(message: Any, **changes: object) -> Fields:
    """As it lies on its stream, with values of the body changed."""
    fields = wire(message)
    return {**fields, b"body": orjson.dumps(orjson.loads(fields[b"body"]) | changes)}


def poisoned_views() -> list[Fields]:
    texts = [
        b"",
        b"no JSON",
        b"[]",
        b"7",
        b'"text"',
        b"null",
        b'{"add": []}',
        b'{"add": {"c0": "3"}}',
        b'{"add": {"c0": -3}}',
        b'{"add": {"c0": 1e9}}',
        b'{"add": {"../c0": 1}}',
        b'{"subtract": {"c0": 1}}',
        b'{"add": {"c0": 1}, "set": {"c0": 1}}',
        b"\xff\xfe",
        b"[" * 100_000,
        _HUGE,
        orjson.dumps({"add": {ELSEWHERE: 5}}),
    ]
    return [*({b"v1": text} for text in texts), {b"foreign": b"1"}, {b"v1": b"{}", b"\xff": b"\xff"}]


def poisoned(message: Any) -> list[Fields]:
    return [
        {b"foreign": b"1"},
        {b"\xff\xfe": b"\xff"},
        wire(message, cid=None),
        wire(message, move_id=None),
        wire(message, body=None),
        wire(message, body=b""),
        wire(message, body=b"[]"),
        wire(message, body=b"{}"),
        wire(message, body=b"\xff\xfe"),
        wire(message, body=b"[" * 100_000),
        packed(message, count="many"),
        packed(message, count=-1),
        packed(message, count=2**60),
        packed(message, filename=None),
        packed(message, why=_HUGE.decode()),
        wire(message, cid=b"x" * 65),
        wire(message, cid=b"../../etc/passwd"),
        wire(message, cid=b"\x00"),
    ]


POISON: dict[StreamName, list[Fields]] = {
    "views": poisoned_views(),
    "moves": [*poisoned(a_move(CID)), wire(a_move(ELSEWHERE))],
    "placed": [*poisoned(a_placed(CID)), packed(a_placed(CID), method="magic"), wire(a_placed(ELSEWHERE))],
    "retires": [*poisoned(a_retire(CID)), packed(a_retire(CID), seconds="nan"), wire(a_retire(ELSEWHERE))],
}


@pytest.mark.parametrize("stream", POISON)
async def test_poison_on_a_stream_becomes_dead_letters_and_work_behind_it_goes_on(
    house: House, stream: StreamName
) -> None:
    cids = await house.contents(8)
    processes = {service.process.pid for service in house.running}
    keys = PARTITION_KEYS[0]
    async with house.redis() as redis:
        for fields in POISON[stream]:
            await redis.xadd(keys.stream(stream), fields)
        assert await house.view(dict.fromkeys(cids, 1500)) == 202
        await house.judge(dead_allowed=True)
        letters = [fields for _, fields in await redis.xrange(keys.dead)]
        await redis.delete(keys.dead)
    assert {letter[b"reason"] for letter in letters} == {b"undecodable"}
    assert all(letter[b"detail"] and letter[b"origin"] == stream.encode() for letter in letters)
    found = [{name[2:]: value for name, value in fields.items() if name[:2] == b"f:"} for fields in letters]
    assert sorted(map(repr, found)) == sorted(map(repr, POISON[stream]))
    assert {service.process.pid for service in house.running} == processes, "a service has crashed"


@pytest.mark.parametrize(
    "member",
    [
        b"no JSON",
        b"",
        b"7",
        b"null",
        b"{}",
        b"[]",
        b'["moves"]',
        b'["views", "v1", "{}"]',
        b'["moves", "cid"]',
        b'["moves", "cid", null]',
        b'["moves", "cid", {"a": 1}]',
        b'[null, "cid", "7"]',
        b"[" * 5000,
        b"\xff\xfe",
    ],
    ids=lambda member: repr(member[:20]),
)
async def test_a_poisoned_member_of_later_is_a_dead_letter_and_holds_nothing_up(house: House, member: bytes) -> None:
    keys = PARTITION_KEYS[0]
    behind = wire(a_move(CID, move_id="behind"))
    flat = [part.decode() for pair in behind.items() for part in pair]
    async with house.redis() as redis:
        await redis.zadd(keys.later, {member: 1, orjson.dumps(["moves", *flat]): 2})
        await until(lambda: emptied(redis, keys.later), "later is emptied", 5)
        ((_, letter),) = await redis.xrange(keys.dead)
        await redis.delete(keys.dead)
    assert (letter[b"origin"], letter[b"reason"], letter[b"f:member"]) == (b"later", b"undecodable", member)


async def emptied(redis: Any, key: str) -> bool:
    return not int(await redis.zcard(key))
