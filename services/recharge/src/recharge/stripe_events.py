"""Translates Stripe's events: payments of attempts, disputes, and evidence about cards. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from recharge.core.cards import CardEvidence
from recharge.core.disputes import DisputeSeen, dispute_seen
from recharge.core.proof import NamedPaymentIntent
from shared.signed_metadata import MetadataRejected, has_marker, verify
from shared.stripe_events import (
    DisputeView,
    PaymentIntentView,
    PaymentMethodView,
    StripeEvent,
    is_of_own_account,
    parse_event,
)


@dataclass(frozen=True, slots=True)
class IrrelevantEvent:
    """An event that changes nothing here."""

    type: str


def translate(
    body: bytes, signing_keys: Sequence[str]
) -> NamedPaymentIntent | DisputeSeen | CardEvidence | IrrelevantEvent | None:
    """What the event means for recharge; None if it is of another account, or of a dispute without a PaymentIntent.

    Raises `MalformedEvent` where the body is no event, or a field that we rely on is missing.
    """
    event = parse_event(body)
    if not is_of_own_account(event):
        return None
    if event.type.startswith("charge.dispute."):
        return dispute_seen(DisputeView.of(event.object), event.created)
    if event.type.startswith("payment_intent."):
        view = PaymentIntentView.of(event.object)
        if has_marker(view.metadata) and "attempt" in view.metadata:
            return _named_payment_intent(view, signing_keys)
    return _card_evidence(event, signing_keys) or IrrelevantEvent(event.type)


def _named_payment_intent(view: PaymentIntentView, signing_keys: Sequence[str]) -> NamedPaymentIntent:
    try:
        verify(view.metadata, signing_keys)
    except MetadataRejected:
        # PostgreSQL's text holds no NUL, so a name with one is the name of no attempt.
        return NamedPaymentIntent(view, view.metadata["attempt"].replace("\x00", ""), is_signed=False)
    return NamedPaymentIntent(view, view.metadata["attempt"], is_signed=True)


def _card_evidence(event: StripeEvent, signing_keys: Sequence[str]) -> CardEvidence | None:
    """What the event proves about a card. A payment counts if it is a purchase of ours: then its buyer was present."""
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
    is_paid = (view.status, view.amount_minor, view.currency) == ("succeeded", order.amount_minor, order.currency)
    return CardEvidence(view.customer, view.payment_method, event.created) if is_paid and order.purchase else None
