from datetime import UTC, datetime
from typing import Any

import pytest

from load.webhooks import body_of, event
from shared.stripe_events import EVENT_TYPES, parse_event
from webhook_gateway.core.records import EventRecord, is_taken, record_of

AT = datetime(2026, 9, 1, 12, 0, 0, 123456, tzinfo=UTC)
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def record(**changes: Any) -> EventRecord:
    body = body_of(event(**changes))
    return record_of(parse_event(body), body, origin="webhook", received_at=AT, traceparent=TRACE)


@pytest.mark.parametrize(
    ("obj", "key"),
    [
        ({"object": "payment_intent", "id": "pi_1", "customer": "cus_1"}, b"pi_1"),
        ({"object": "refund", "id": "re_1", "payment_intent": "pi_1", "charge": "ch_1"}, b"pi_1"),
        ({"object": "dispute", "id": "dp_1", "payment_intent": {"id": "pi_1"}}, b"pi_1"),
        ({"object": "payment_method", "id": "pm_1", "customer": "cus_1"}, b"cus_1"),
        ({"object": "payment_method", "id": "pm_1", "customer": None}, b"pm_1"),
        ({"object": "customer", "id": "cus_1"}, b"cus_1"),
    ],
)
def test_events_of_one_payment_share_a_key(obj: dict[str, Any], key: bytes) -> None:
    assert record(data={"object": obj}).key == key


def test_an_object_without_an_id_is_keyed_by_its_event() -> None:
    assert record(id="evt_7", data={"object": {"object": "payment_intent"}}).key == b"evt_7"


def test_headers_describe_the_event() -> None:
    assert dict(record(id="evt_7").headers) == {
        "stripe-event-id": b"evt_7",
        "stripe-event-type": b"payment_intent.succeeded",
        "stripe-livemode": b"false",
        "received-at": b"2026-09-01T12:00:00.123456+00:00",
        "origin": b"webhook",
        "traceparent": TRACE.encode(),
    }


def test_only_subscribed_types_are_taken() -> None:
    assert all(is_taken(parse_event(body_of(event(kind)))) for kind in EVENT_TYPES)
    assert not is_taken(parse_event(body_of(event("invoice.paid"))))
