"""Events made of an object as Stripe has it now, in place of its own events, which were lost. Pure.

Stripe keeps events for 30 days and lists them by time, not by object. The object itself stays, and has its final state.
An event's id is a hash of its type, the object's id and its status: rebuilt twice, it is the same event.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from shared.stripe_events import STRIPE_API_VERSION, created_of, dispute_moves_of


def events_of(obj: Mapping[str, Any]) -> Sequence[bytes]:
    """The events of a PaymentIntent, refund or dispute, in order, as Stripe's JSON. None for a PaymentIntent that has
    not succeeded, or for another object. Raises `MalformedEvent`."""
    return [_event(event_type, obj) for event_type in _types_of(obj)]


def _types_of(obj: Mapping[str, Any]) -> Sequence[str]:
    match obj.get("object"), obj.get("status"):
        case "payment_intent", "succeeded":
            return ["payment_intent.succeeded"]
        case "refund", "failed":
            return ["refund.failed"]
        case "refund", "canceled":
            return ["refund.updated"]
        case "refund", _:
            return ["refund.created"]
        case "dispute", _:
            moves = dispute_moves_of(obj)
            return ["charge.dispute.created", *(f"charge.dispute.funds_{each}" for each in moves)]
        case _:
            return []


def _event(event_type: str, obj: Mapping[str, Any]) -> bytes:
    said = f"{event_type}|{obj.get('id')}|{obj.get('status')}"
    return to_json(
        {
            "id": f"evt_rebuilt_{hashlib.sha256(said.encode()).hexdigest()[:24]}",
            "object": "event",
            "api_version": STRIPE_API_VERSION,
            "created": int(created_of(obj).timestamp()),
            "data": {"object": dict(obj)},
            "livemode": obj.get("livemode") is True,
            "pending_webhooks": 0,
            "request": {"id": None, "idempotency_key": None},
            "type": event_type,
        }
    )
