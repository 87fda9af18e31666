"""`compare(at_stripe, in_books)`: how Stripe and the books differ about a PaymentIntent.

Stripe's side is the commands that its events would become (`stripe_events`), so that one rule judges both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ledger.core.commands import Credit, DisputeSeen, RefundSeen, UnappliedReceipt
from ledger.core.reversals import VOID_REFUND_STATUSES
from ledger.core.state import PaymentIntent


class Kind(StrEnum):
    """The kinds of difference."""

    PAYMENT_MISSING = "payment_missing"
    PAYMENT_DIFFERS = "payment_differs"
    PAYMENT_NOT_AT_STRIPE = "payment_not_at_stripe"
    REFUND_MISSING = "refund_missing"
    REFUND_STATUS_DIFFERS = "refund_status_differs"
    REFUND_DIFFERS = "refund_differs"
    REFUND_NOT_AT_STRIPE = "refund_not_at_stripe"
    DISPUTE_MISSING = "dispute_missing"
    DISPUTE_DIFFERS = "dispute_differs"
    DISPUTE_NOT_AT_STRIPE = "dispute_not_at_stripe"
    REVERSAL_REFUSED = "reversal_refused"


#: What the books lack, and have once the event of the object is published again.
HEALABLE = frozenset([Kind.PAYMENT_MISSING, Kind.REFUND_MISSING, Kind.REFUND_STATUS_DIFFERS, Kind.DISPUTE_MISSING])


class Difference(NamedTuple):
    """One difference. `object_id` is the PaymentIntent, refund or dispute that it is about."""

    kind: Kind
    payment_intent: str
    object_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class AtStripe:
    """What Stripe has of a PaymentIntent. `payment` is None where it has taken no money that is ours.

    `on_their_way` are ids of objects so young that their events may still come. `has_all_reversals`: `refunds` and
    `disputes` are complete, so that one that only the books have is a difference.
    """

    payment_intent: str
    payment: Credit | UnappliedReceipt | None
    refunds: Mapping[str, RefundSeen] = field(default_factory=dict[str, RefundSeen])
    disputes: Mapping[str, tuple[DisputeSeen, ...]] = field(default_factory=dict[str, tuple[DisputeSeen, ...]])
    on_their_way: frozenset[str] = frozenset()
    has_all_reversals: bool = False


@dataclass(frozen=True, slots=True)
class InBooks:
    """What the books have of a PaymentIntent. `receipt`: the amount and currency of its unapplied receipt."""

    intent: PaymentIntent
    receipt: tuple[int, str] | None = None


def compare(at_stripe: AtStripe, in_books: InBooks | None) -> list[Difference]:
    """The differences, in no order, without those that an event on its way will resolve."""
    known = in_books or InBooks(PaymentIntent(at_stripe.payment_intent))
    found = [*_payment(at_stripe, known), *_refunds(at_stripe, known.intent), *_disputes(at_stripe, known.intent)]
    return [each for each in found if not (each.kind in HEALABLE and each.object_id in at_stripe.on_their_way)]


def _payment(at_stripe: AtStripe, known: InBooks) -> Iterator[Difference]:
    name, payment, credit = at_stripe.payment_intent, at_stripe.payment, known.intent.credit
    money = (credit.amount_minor, credit.currency) if credit else known.receipt
    if payment is None:
        if money is not None:
            yield Difference(Kind.PAYMENT_NOT_AT_STRIPE, name, name, f"the books have {_money(*money)}")
        return
    taken = (payment.amount_minor, payment.currency)
    if money is None:
        yield Difference(Kind.PAYMENT_MISSING, name, name, f"Stripe took {_money(*taken)}")
    elif money != taken:
        detail = f"Stripe took {_money(*taken)}, the books have {_money(*money)}"
        yield Difference(Kind.PAYMENT_DIFFERS, name, name, detail)
    elif credit is not None and isinstance(payment, Credit) and known.intent.receipt_tenant is None:
        # An operator has decided what this receipt buys.
        sold, posted = (payment.tenant, payment.credits), (credit.tenant, credit.credits)
        if sold != posted:
            detail = f"sold were {sold[1]} credits to {sold[0]!r}, posted {posted[1]} to {posted[0]!r}"
            yield Difference(Kind.PAYMENT_DIFFERS, name, name, detail)


def _refunds(at_stripe: AtStripe, intent: PaymentIntent) -> Iterator[Difference]:
    for name, seen in at_stripe.refunds.items():
        refused, is_void = intent.refused.get(name), seen.status in VOID_REFUND_STATUSES
        state = intent.refunds.get(name) or refused
        if refused is not None and not is_void and not refused.is_void:
            yield _refused(intent, name, seen.amount_minor, seen.currency)
        elif state is None:
            if not is_void:
                detail = f"Stripe gave back {_money(seen.amount_minor, seen.currency)}"
                yield Difference(Kind.REFUND_MISSING, intent.id, name, detail)
        elif state.is_void is not is_void:
            detail = f"it is {seen.status}, in the books it {'has failed' if state.is_void else 'has not failed'}"
            yield Difference(Kind.REFUND_STATUS_DIFFERS, intent.id, name, detail)
        elif state.amount_minor != seen.amount_minor:
            detail = f"it is of {seen.amount_minor}, in the books of {state.amount_minor} (minor units)"
            yield Difference(Kind.REFUND_DIFFERS, intent.id, name, detail)
    if at_stripe.has_all_reversals:
        for name in intent.refunds.keys() - at_stripe.refunds.keys():
            yield Difference(Kind.REFUND_NOT_AT_STRIPE, intent.id, name, "Stripe has no such refund of this payment")


def _disputes(at_stripe: AtStripe, intent: PaymentIntent) -> Iterator[Difference]:
    for name, moves in at_stripe.disputes.items():
        state = intent.disputes.get(name)
        refused = {move.moved: intent.refused.get(f"{name}:{move.moved}") for move in moves}
        still_open = [each for each in refused.values() if each is not None and not each.is_void]
        due = {move.moved: move.amount_minor for move in moves if refused[move.moved] is None}
        held = {"withdrawn": state.withdrawn_minor, "reinstated": state.reinstated_minor} if state else {}
        lacking = [moved for moved in due if not held.get(moved)]
        if lacking:
            detail = f"Stripe has {' and '.join(lacking)} {max(due.values())} minor units"
            yield Difference(Kind.DISPUTE_MISSING, intent.id, name, detail)
        elif any(amount_minor != due.get(moved, 0) for moved, amount_minor in held.items()):
            yield Difference(Kind.DISPUTE_DIFFERS, intent.id, name, f"Stripe moved {due}, the books have {held}")
        elif still_open:
            yield _refused(intent, name, still_open[0].amount_minor, still_open[0].currency)
    if at_stripe.has_all_reversals:
        for name in intent.disputes.keys() - at_stripe.disputes.keys():
            yield Difference(Kind.DISPUTE_NOT_AT_STRIPE, intent.id, name, "Stripe has no such dispute of this payment")


def _refused(intent: PaymentIntent, name: str, amount_minor: int, currency: str) -> Difference:
    detail = f"Stripe moved {_money(amount_minor, currency)}, which is not the currency that was credited"
    return Difference(Kind.REVERSAL_REFUSED, intent.id, name, detail)


def _money(amount_minor: int, currency: str) -> str:
    return f"{amount_minor} {currency}"
