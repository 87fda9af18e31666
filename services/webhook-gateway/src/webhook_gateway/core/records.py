"""The record of `stripe.events` that an event becomes. Pure."""

from datetime import datetime
from typing import Literal, NamedTuple

from shared.stripe_events import EVENT_TYPES, Header, StripeEvent, routing_key

_TAKEN = frozenset(EVENT_TYPES)

Origin = Literal["webhook", "api"]


class EventRecord(NamedTuple):
    """What is published: Stripe's bytes as they came, and beside them what routes and explains them."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def is_taken(event: StripeEvent) -> bool:
    """Whether anybody reads events of this type. The others are acknowledged and counted, not published."""
    return event.type in _TAKEN


def record_of(
    event: StripeEvent, body: bytes, *, origin: Origin, received_at: datetime, traceparent: str
) -> EventRecord:
    """The record of an event, whichever way it reached us."""
    headers = [
        (Header.EVENT_ID, event.id.encode()),
        (Header.TYPE, event.type.encode()),
        (Header.LIVEMODE, b"true" if event.livemode else b"false"),
        (Header.RECEIVED_AT, received_at.isoformat().encode()),
        (Header.ORIGIN, origin.encode()),
        (Header.TRACEPARENT, traceparent.encode()),
    ]
    return EventRecord(routing_key(event).encode(), body, headers)
