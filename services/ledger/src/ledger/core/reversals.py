"""How much of a credit refunds and disputes take back: recomputed from all that is known, never added up.

So neither order nor repetition changes the result, and thirds that were rounded down still end at the whole.
"""

from dataclasses import replace

from ledger.core.commands import DisputeSeen, RefundSeen
from ledger.core.state import CreditOfIntent, DisputeState, PaymentIntent, RefundState

#: A refund in one of these states never took money, or gave it back; Stripe does not let it leave them.
VOID_REFUND_STATUSES = frozenset(["failed", "canceled"])


def credits_to_reverse(credit: CreditOfIntent, intent: PaymentIntent) -> int:
    """floor(credits × min(amount, refunds + disputes) ÷ amount); all of them when the amount is fully reversed."""
    refunded_minor = sum(refund.amount_minor for refund in intent.refunds.values() if not refund.is_void)
    disputed_minor = sum(withdrawn_minor(dispute) for dispute in intent.disputes.values())
    reversed_minor = min(credit.amount_minor, refunded_minor + disputed_minor)
    return credit.credits * reversed_minor // credit.amount_minor


def withdrawn_minor(dispute: DisputeState) -> int:
    """What a dispute keeps. Funds given back before we saw them taken are not a gain."""
    return max(0, dispute.withdrawn_minor - dispute.reinstated_minor)


def with_refund(intent: PaymentIntent, seen: RefundSeen) -> PaymentIntent:
    """The PaymentIntent after this sight of a refund; the same object where it says nothing new."""
    known = intent.refunds.get(seen.refund)
    is_void = seen.status in VOID_REFUND_STATUSES
    if known is not None and (known.is_void or not is_void):
        return intent
    return replace(
        intent, refunds={**intent.refunds, seen.refund: RefundState(seen.amount_minor, is_void, seen.currency)}
    )


def with_dispute(intent: PaymentIntent, seen: DisputeSeen) -> PaymentIntent:
    """The PaymentIntent after this move of a dispute's funds; the same object where it was known."""
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
