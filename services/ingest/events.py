"""CloudEvents 1.0: views that carry their own identity. Pure.

An event is known by `source` and `id` together; the same event is counted once, however often and in whatever mode
(structured, batched, binary) it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import orjson
from blake3 import blake3

from services.ingest.payloads import Event, Intake, check_item, limited, load
from shared.errors import InvalidError
from shared.keys import partition_of

HEADER_PREFIX = "ce-"
_REQUIRED = ("id", "source", "type")
ATTRIBUTE_MAX_CHARACTERS = 4096
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def parse_event(body: bytes, partitions: int) -> Intake:
    """One event in structured mode. Raises InvalidError where the body is no JSON object."""
    value = load(body)
    if not isinstance(value, dict):
        raise InvalidError("body must be one CloudEvent, an object; send a batch as application/cloudevents-batch+json")
    return _fold_events([value], partitions)


def parse_events(body: bytes, partitions: int) -> Intake:
    """A batch of events. Raises InvalidError where the body is no JSON array."""
    value = load(body)
    if not isinstance(value, list):
        raise InvalidError("body must be an array of CloudEvents; send one as application/cloudevents+json")
    return _fold_events(limited(value), partitions)


def is_binary(headers: Mapping[str, str]) -> bool:
    """True where the attributes of a CloudEvent came as headers."""
    return "ce-specversion" in headers or "ce-id" in headers


def parse_binary(headers: Mapping[str, str], body: bytes, partitions: int) -> Intake:
    """One event in binary mode: its attributes in `ce-` headers, the view in the body. Raises InvalidError."""
    event: dict[str, Any] = {"data": load(body)}
    for name in ("specversion", *_REQUIRED):
        value = headers.get(HEADER_PREFIX + name)
        if value is not None:
            # What is no UTF-8 is kept as surrogates, and rejected with the event.
            event[name] = unquote(value, errors="surrogateescape")
    return _fold_events([event], partitions)


def _fold_events(events: list[Any], partitions: int) -> Intake:
    intake = Intake()
    for index, event in enumerate(events):
        try:
            _fold_event(event, partitions, intake)
        except InvalidError as error:
            intake.reject(index, str(error))
    return intake


def _fold_event(event: object, partitions: int, intake: Intake) -> None:
    if not isinstance(event, dict):
        raise InvalidError("a CloudEvent must be an object")
    if event.get("specversion") != "1.0":
        raise InvalidError("specversion must be '1.0'")
    event_id, source, _ = (_attribute(event, name) for name in _REQUIRED)
    if "data" not in event:
        raise InvalidError('data is missing: send {"cid": "7", "views": 3}')
    cid, kind, n = check_item(event["data"])
    # No control character is allowed in either, so the zero byte keeps them apart.
    marker = "ce-" + blake3(f"{source}\0{event_id}".encode()).hexdigest()
    packed = orjson.dumps({"set" if kind == "count" else "add": {cid: n}})
    intake.events.append(Event(partition_of(cid, partitions), marker, packed))
    if kind == "count":
        intake.accepted_counts += 1
    else:
        intake.accepted_views += 1


def _attribute(event: Mapping[str, Any], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidError(f"{name} must be a text that is not empty")
    if len(value) > ATTRIBUTE_MAX_CHARACTERS:
        raise InvalidError(f"{name} has {len(value)} characters; at most {ATTRIBUTE_MAX_CHARACTERS} are allowed")
    if _CONTROL.search(value) is not None:
        raise InvalidError(f"{name} has a control character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidError(f"{name} is not valid UTF-8") from None
    return value
