"""CloudEvents in their three modes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.ingest.events import is_binary, parse_binary, parse_event, parse_events
from shared.errors import InvalidError
from shared.keys import partition_of

EVENT = {"specversion": "1.0", "id": "e-1", "source": "/player/é", "type": "view", "data": {"cid": "7", "views": 3}}


def test_the_same_event_has_the_same_marker_in_every_mode() -> None:
    one = parse_event(orjson.dumps(EVENT), 8)
    batch = parse_events(orjson.dumps([EVENT, EVENT]), 8)
    headers = {"ce-specversion": "1.0", "ce-id": "e%2D1", "ce-source": "/player/%C3%A9", "ce-type": "other"}
    binary = parse_binary(headers, b'{"cid": "7", "views": 3}', 8)
    assert is_binary(headers)
    assert [*one.events, *one.events] == batch.events
    assert one.events == binary.events
    [event] = one.events
    assert event.partition == partition_of("7", 8)
    assert event.marker.startswith("ce-")
    assert len(event.marker) == 3 + 64
    assert orjson.loads(event.packed) == {"add": {"7": 3}}
    assert (one.accepted, one.tallies) == (1, {})


def test_source_and_id_make_the_identity() -> None:
    others = [{**EVENT, "id": "e-2"}, {**EVENT, "source": "/x"}, {**EVENT, "id": "1", "source": "/player/ée-"}]
    markers = {event.marker for event in parse_events(orjson.dumps([EVENT, *others]), 8).events}
    assert len(markers) == 4


def test_a_total() -> None:
    [event] = parse_event(orjson.dumps({**EVENT, "data": {"cid": "7", "count": 1964}}), 8).events
    assert orjson.loads(event.packed) == {"set": {"7": 1964}}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in EVENT.items() if key != name}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (without("specversion"), "specversion must be '1.0'"),
        ({**EVENT, "specversion": "0.3"}, "specversion must be '1.0'"),
        (without("id"), "id must be a text"),
        ({**EVENT, "id": ""}, "id must be a text"),
        ({**EVENT, "id": 7}, "id must be a text"),
        ({**EVENT, "id": "a\0b"}, "control character"),
        ({**EVENT, "id": "a" * 5000}, "at most 4096"),
        (without("source"), "source must be a text"),
        (without("type"), "type must be a text"),
        (without("data"), "data is missing"),
        ({**EVENT, "data": "7"}, "must be an object"),
        ({**EVENT, "data": {"cid": "7", "views": 0}}, "views must be an integer"),
        ({**EVENT, "data": {"cid": "no no"}}, "is not 1-64 characters"),
        (7, "a CloudEvent must be an object"),
    ],
)
def test_a_bad_event_is_rejected_alone(event: Any, error: str) -> None:
    intake = parse_events(orjson.dumps([EVENT, event]), 8)
    assert intake.accepted == 1
    assert error in intake.rejected[0]["error"]
    assert intake.rejected[0]["index"] == 1


def test_an_event_and_a_batch_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(InvalidError, match="batch"):
        parse_event(b"[]", 8)
    with pytest.raises(InvalidError, match="array"):
        parse_events(b"{}", 8)
    with pytest.raises(InvalidError):
        parse_event(b"nonsense", 8)


def test_headers_that_are_no_utf8_are_rejected() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "%ff", "ce-source": "\udcff", "ce-type": "view"}
    assert parse_binary(headers, b'{"cid": "7"}', 8).rejected_total == 1
