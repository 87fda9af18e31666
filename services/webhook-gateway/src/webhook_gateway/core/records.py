"""Which events are published to `stripe.events`, and as which records. Pure."""

from datetime import datetime
from typing import Literal, NamedTuple

from shared.stripe_events import EVENT_TYPES, Header, StripeEvent, routing_key

_TAKEN = frozenset(EVENT_TYPES)

Origin = Literal["webhook", "api"]


class EventRecord(NamedTuple):
    """What is published: Stripe's bytes unchanged, with a key and headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def is_taken(event: StripeEvent) -> bool:
    """Whether events of this type are published. The others are only acknowledged and counted."""
    return event.type in _TAKEN


def record_of(
    event: StripeEvent, body: bytes, *, origin: Origin, received_at: datetime, traceparent: str
) -> EventRecord:
    """The record of an event, from a webhook or from Stripe's API."""
    headers = [
        (Header.EVENT_ID, event.id.encode()),
        (Header.TYPE, event.type.encode()),
        (Header.LIVEMODE, b"true" if event.livemode else b"false"),
        (Header.RECEIVED_AT, received_at.isoformat().encode()),
        (Header.ORIGIN, origin.encode()),
        (Header.TRACEPARENT, traceparent.encode()),
    ]
    return EventRecord(routing_key(event).encode(), body, headers)
