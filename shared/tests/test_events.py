import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import EVENT_CLASSES, EXAMPLES, DomainEvent, UndecodableEvent, UsageRecorded, decode, encode
from shared.events_document import document
from shared.topics import BY_NAME

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)


def encoded(event: DomainEvent) -> bytes:
    return encode(event, event_id="evt_1", now=NOW, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")


def test_every_event_class_has_an_example_a_topic_and_a_unique_type() -> None:
    assert set(EXAMPLES) == set(EVENT_CLASSES)
    assert {kind.TOPIC for kind in EVENT_CLASSES} <= set(BY_NAME)
    assert len({kind.TYPE for kind in EVENT_CLASSES}) == len(EVENT_CLASSES)


@pytest.mark.parametrize("kind", EVENT_CLASSES)
def test_an_encoded_example_is_decoded_unchanged(kind: type[DomainEvent]) -> None:
    assert decode(encoded(EXAMPLES[kind]), kind) == EXAMPLES[kind]


@pytest.mark.parametrize("kind", EVENT_CLASSES)
def test_an_event_is_encoded_as_a_cloudevent(kind: type[DomainEvent]) -> None:
    envelope = json.loads(encoded(EXAMPLES[kind]))
    assert (envelope["specversion"], envelope["type"], envelope["source"]) == ("1.0", kind.TYPE, kind.SOURCE)
    assert (envelope["subject"], envelope["id"]) == (EXAMPLES[kind].key, "evt_1")
    assert datetime.fromisoformat(envelope["time"]) == NOW


@pytest.mark.parametrize("kind", EVENT_CLASSES)
def test_unknown_fields_are_ignored_and_unknown_types_decode_to_none(kind: type[DomainEvent]) -> None:
    envelope = json.loads(encoded(EXAMPLES[kind]))
    envelope["data"]["added_later"] = 1
    assert decode(json.dumps(envelope).encode(), kind) == EXAMPLES[kind]
    envelope["type"] = "something.newer.v2"
    assert decode(json.dumps(envelope).encode(), kind) is None


@given(st.binary(max_size=100) | st.sampled_from([b"{}", b"[]", b"null", b'{"specversion":"0.3"}', b"1"]))
def test_bytes_that_are_not_an_event_are_undecodable(value: bytes) -> None:
    with pytest.raises(UndecodableEvent):
        decode(value, UsageRecorded)


def test_a_tombstone_and_invalid_data_are_undecodable() -> None:
    envelope = json.loads(encoded(EXAMPLES[UsageRecorded]))
    for credits in (0, -1, 2**53, "many", None, "12", 12.0, 12.5, True):
        envelope["data"]["credits"] = credits
        with pytest.raises(UndecodableEvent):
            decode(json.dumps(envelope).encode(), UsageRecorded)
    with pytest.raises(UndecodableEvent):
        decode(None, UsageRecorded)


def test_docs_events_md_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == document(), "run: .venv/bin/python -m shared.events_document > docs/events.md"
