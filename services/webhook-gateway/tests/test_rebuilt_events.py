"""Which events are made of an object, in which order, and with which ids."""

from typing import Any

import pytest

from shared.stripe_events import EVENT_TYPES, MalformedEvent, is_of_own_account, parse_event, routing_key
from webhook_gateway.core.rebuilt_events import events_of


def an_object(kind: str, status: str, **changes: Any) -> dict[str, Any]:
    return {
        "object": kind, "id": f"{kind}_1", "status": status, "payment_intent": "pi_1", "created": 1_790_000_000,
        "livemode": True, **changes,
    }  # fmt: skip


def moved(*amounts_minor: int) -> dict[str, Any]:
    return {"balance_transactions": [{"amount": each, "created": 1_790_000_000} for each in amounts_minor]}


@pytest.mark.parametrize(
    ("obj", "types"),
    [
        (an_object("payment_intent", "succeeded"), ["payment_intent.succeeded"]),
        (an_object("payment_intent", "processing"), []),
        (an_object("refund", "succeeded"), ["refund.created"]),
        (an_object("refund", "pending"), ["refund.created"]),
        (an_object("refund", "failed"), ["refund.failed"]),
        (an_object("refund", "canceled"), ["refund.updated"]),
        (an_object("dispute", "warning_closed"), ["charge.dispute.created"]),
        (an_object("dispute", "lost", **moved(-500)), ["charge.dispute.created", "charge.dispute.funds_withdrawn"]),
        (
            an_object("dispute", "won", **moved(-500, 500)),
            ["charge.dispute.created", "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"],
        ),
        (an_object("customer", "active"), []),
    ],
)
def test_rebuilt_events_have_the_types_of_the_lost_ones(obj: dict[str, Any], types: list[str]) -> None:
    events = [parse_event(body) for body in events_of(obj)]
    assert [event.type for event in events] == types
    assert set(types) <= set(EVENT_TYPES)
    for event in events:
        assert (event.object, event.livemode, int(event.created.timestamp())) == (obj, True, obj["created"])
        assert is_of_own_account(event)
        assert routing_key(event) == (obj["id"] if obj["object"] == "payment_intent" else "pi_1")


def test_an_event_id_depends_on_the_object_and_its_status_only() -> None:
    pending, failed = an_object("refund", "pending"), an_object("refund", "failed")
    assert events_of(pending) == events_of(dict(pending))
    ids = {parse_event(body).id for obj in (pending, failed) for body in events_of(obj)}
    assert len(ids) == 2


def test_an_object_without_required_fields_is_malformed() -> None:
    with pytest.raises(MalformedEvent):
        events_of({"object": "refund", "id": "re_1", "status": "failed"})
    with pytest.raises(MalformedEvent):
        events_of(an_object("dispute", "lost", balance_transactions=[{"amount": "1"}]))
