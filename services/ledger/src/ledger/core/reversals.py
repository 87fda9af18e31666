"""How many credits refunds and disputes take back: recomputed each time from all that is known of the PaymentIntent.

So neither order nor repetition changes the result, and three refunds of a third take back the whole. `plan.py` decides
when they are posted; those that come before their payment wait there.
"""

from dataclasses import replace

from ledger.core.commands import DisputeSeen, RefundSeen
from ledger.core.state import CreditOfIntent, DisputeState, PaymentIntent, RefundState

#: A refund in one of these states moved no money, or gave it back. They are final at Stripe.
VOID_REFUND_STATUSES = frozenset(["failed", "canceled"])


def credits_to_reverse(credit: CreditOfIntent, intent: PaymentIntent) -> int:
    """floor(credits × min(amount, refunds + disputes) ÷ amount); all of them when the amount is fully reversed."""
    refunded_minor = sum(refund.amount_minor for refund in intent.refunds.values() if not refund.is_void)
    disputed_minor = sum(withdrawn_minor(dispute) for dispute in intent.disputes.values())
    reversed_minor = min(credit.amount_minor, refunded_minor + disputed_minor)
    return credit.credits * reversed_minor // credit.amount_minor


def withdrawn_minor(dispute: DisputeState) -> int:
    """The funds that a dispute has withdrawn and not reinstated. Never below zero: the events may come in any order."""
    return max(0, dispute.withdrawn_minor - dispute.reinstated_minor)


def with_refund(intent: PaymentIntent, seen: RefundSeen) -> PaymentIntent:
    """The PaymentIntent with the refund as seen; the same object if that says nothing new."""
    known = intent.refunds.get(seen.refund)
    is_void = seen.status in VOID_REFUND_STATUSES
    if known is not None and (known.is_void or not is_void):
        return intent
    return replace(
        intent, refunds={**intent.refunds, seen.refund: RefundState(seen.amount_minor, is_void, seen.currency)}
    )


def with_dispute(intent: PaymentIntent, seen: DisputeSeen) -> PaymentIntent:
    """The PaymentIntent with these funds of a dispute moved; the same object if that was known."""
    known = intent.disputes.get(seen.dispute, DisputeState(currency=seen.currency))
    if seen.moved == "withdrawn":
        if known.withdrawn_minor:
            return intent
        moved = replace(known, withdrawn_minor=seen.amount_minor)
    else:
        if known.reinstated_minor:
            return intent
        moved = replace(known, reinstated_minor=seen.amount_minor)
    return replace(intent, disputes={**intent.disputes, seen.dispute: moved})
