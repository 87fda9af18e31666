"""Translates Stripe's events into commands. Pure."""

from collections.abc import Sequence

from ledger.core.accounts import CREDITS_MAX, Kind
from ledger.core.commands import Command, Credit, DisputeSeen, RefundSeen, UnappliedReceipt
from shared.signed_metadata import CreditOrder, MetadataRejected, has_marker, verify
from shared.stripe_events import DisputeView, PaymentIntentView, RefundView, StripeEvent

HANDLED_TYPES = frozenset(
    [
        "payment_intent.succeeded",
        "refund.created",
        "refund.updated",
        "refund.failed",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
    ]
)

#: The longest time that an order may give a grant: a hundred years.
EXPIRES_IN_DAYS_MAX = 36_500
CLAIM_CHARACTERS_MAX = 500


def command_of(event: StripeEvent, signing_keys: Sequence[str]) -> Command | None:
    """The command that the event becomes; None if the event is not for the ledger. Raises `MalformedEvent`."""
    match event.type:
        case "payment_intent.succeeded":
            return command_of_payment_intent(PaymentIntentView.of(event.object), signing_keys)
        case "refund.created" | "refund.updated" | "refund.failed":
            refund = RefundView.of(event.object)
            if refund.payment_intent is None or refund.amount_minor <= 0:
                return None
            return RefundSeen(refund.payment_intent, refund.id, refund.amount_minor, refund.currency, refund.status)
        case "charge.dispute.funds_withdrawn" | "charge.dispute.funds_reinstated":
            dispute = DisputeView.of(event.object)
            if dispute.payment_intent is None or dispute.amount_minor <= 0 or dispute.status.startswith("warning_"):
                return None
            moved = "withdrawn" if event.type.endswith("withdrawn") else "reinstated"
            return DisputeSeen(dispute.payment_intent, dispute.id, dispute.amount_minor, dispute.currency, moved)
        case _:
            return None


def command_of_payment_intent(
    intent: PaymentIntentView, signing_keys: Sequence[str]
) -> Credit | UnappliedReceipt | None:
    """The command that a PaymentIntent becomes when it succeeds; None if it does not have our marker."""
    if not has_marker(intent.metadata):
        return None
    try:
        order = verify(intent.metadata, signing_keys)
    except MetadataRejected as rejected:
        return _unapplied(intent, str(rejected))
    reason = _reason_to_reject(order, intent)
    if reason is not None:
        return _unapplied(intent, reason)
    return Credit(
        tenant=order.tenant,
        payment_intent=intent.id,
        kind=Kind.RECHARGE if order.attempt else Kind.PURCHASE,
        credits=order.credits,
        amount_minor=order.amount_minor,
        currency=order.currency,
        expires_in_days=order.expires_in_days,
        purchase=order.purchase,
        attempt=order.attempt,
    )


def _reason_to_reject(order: CreditOrder, intent: PaymentIntentView) -> str | None:
    """Why an order with a valid signature cannot be credited; None if it can."""
    if not order.tenant or "\x00" in order.tenant:
        return "tenant_invalid"
    if intent.currency != order.currency.lower():
        return "currency_differs"
    if intent.amount_received_minor != order.amount_minor or order.amount_minor <= 0:
        return "amount_differs"
    if not 0 < order.credits <= CREDITS_MAX:
        return "credits_out_of_range"
    if order.expires_in_days is not None and not 0 < order.expires_in_days <= EXPIRES_IN_DAYS_MAX:
        return "expiry_out_of_range"
    return None


def _unapplied(intent: PaymentIntentView, reason: str) -> UnappliedReceipt:
    return UnappliedReceipt(
        claimed_tenant=_claim(intent, "tenant") or "",
        payment_intent=intent.id,
        amount_minor=intent.amount_received_minor,
        currency=intent.currency,
        reason=reason,
        purchase=_claim(intent, "purchase"),
        attempt=_claim(intent, "attempt"),
    )


def _claim(intent: PaymentIntentView, name: str) -> str | None:
    """A field of unproven metadata, fit for a text column; Stripe allows 500 characters."""
    return intent.metadata.get(name, "").replace("\x00", "")[:CLAIM_CHARACTERS_MAX] or None
