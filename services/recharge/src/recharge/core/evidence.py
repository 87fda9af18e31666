"""What Stripe's events prove about a card: that it paid with its owner present, or that its network updated it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.signed_metadata import MetadataRejected, has_marker, verify
from shared.stripe_events import PaymentIntentView, PaymentMethodView, StripeEvent


@dataclass(frozen=True, slots=True)
class CardEvidence:
    """A payment method of a Stripe customer that proved good."""

    customer: str
    payment_method: str
    seen_at: datetime


def evidence_in(event: StripeEvent, signing_keys: Sequence[str]) -> CardEvidence | None:
    """What this event proves, or None. A payment counts if it is a purchase of ours: its buyer was there.

    Raises `MalformedEvent` where a field we rely on is missing.
    """
    if event.type == "payment_method.automatically_updated":
        method = PaymentMethodView.of(event.object)
        return CardEvidence(method.customer, method.id, event.created) if method.customer else None
    if event.type != "payment_intent.succeeded":
        return None
    view = PaymentIntentView.of(event.object)
    if not has_marker(view.metadata) or view.customer is None or view.payment_method is None:
        return None
    try:
        order = verify(view.metadata, signing_keys)
    except MetadataRejected:
        return None
    is_it = (view.status, view.amount_minor, view.currency) == ("succeeded", order.amount_minor, order.currency)
    return CardEvidence(view.customer, view.payment_method, event.created) if is_it and order.purchase else None
