"""Disputes, as far as they stop recharge."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.stripe_events import DisputeView

#: https://docs.stripe.com/api/disputes/object: over, one way or the other.
CLOSED_DISPUTE_STATUSES = frozenset(["won", "lost", "warning_closed", "prevented"])


@dataclass(frozen=True, slots=True)
class DisputeSeen:
    """A dispute of a PaymentIntent, as it was at `seen_at`."""

    dispute: str
    payment_intent: str
    status: str
    seen_at: datetime
    closed_at: datetime | None


def dispute_seen(view: DisputeView, created: datetime) -> DisputeSeen | None:
    """The dispute in an event that was created then; None if it names no PaymentIntent."""
    if view.payment_intent is None:
        return None
    return DisputeSeen(
        dispute=view.id,
        payment_intent=view.payment_intent,
        status=view.status,
        # Stripe counts whole seconds. What its owner did within that second was not a reaction to the dispute.
        seen_at=created + timedelta(seconds=1),
        closed_at=created if view.status in CLOSED_DISPUTE_STATUSES else None,
    )


def unreadable_dispute(payment_intent: str, record: str, now: datetime) -> DisputeSeen:
    """An event that could not be read may have been a dispute: it counts as one that is open. `record` is its name."""
    return DisputeSeen(
        dispute=f"unreadable:{record}", payment_intent=payment_intent, status="unreadable", seen_at=now, closed_at=None
    )
