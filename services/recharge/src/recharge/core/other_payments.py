"""What it means for an attempt that another PaymentIntent than its own was paid in its name. Pure.

A signed order can be copied, and an operator may credit a stray receipt that names an attempt. Such money counts in the
cap, and an attempt ends only by what becomes of its own PaymentIntent: while that is unpaid it is cancelled first.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from recharge.core.attempts import NOTHING_MADE, Attempt, State, Try
from recharge.core.payment_intent import give_up
from recharge.core.reconcile import after_credit, after_unapplied_receipt
from recharge.core.transitions import Alert, OtherPayment, Transition

PAID_OTHERWISE = "paid_otherwise"


def after_credit_entry(attempt: Attempt, tries: Sequence[Try], payment: OtherPayment, now: datetime) -> Transition:
    """The ledger has posted credits that name this attempt, for this payment."""
    if attempt.payment_intent == payment.payment_intent:
        return after_credit(attempt, now)
    is_alike = (payment.amount_minor, payment.currency) == (attempt.amount_minor, attempt.currency)
    if attempt.payment_intent is None and is_alike:
        if attempt.has_ended:
            return after_credit(replace(attempt, payment_intent=payment.payment_intent), now)
        if not has_made_nothing(tries):
            return _reconcile_first(attempt, payment, now)
    return after_other_payment(replace(attempt, receipt_unapplied=False), tries, payment, now)


def after_receipt_entry(attempt: Attempt, tries: Sequence[Try], payment: OtherPayment, now: datetime) -> Transition:
    """The ledger has the money of this payment and did not credit it."""
    if attempt.payment_intent == payment.payment_intent:
        return after_unapplied_receipt(attempt, now)
    if attempt.payment_intent is None:  # its own most likely; counted until that is known
        return replace(after_unapplied_receipt(attempt, now), other_payment=payment)
    return after_other_payment(attempt, tries, payment, now)


def after_other_payment(attempt: Attempt, tries: Sequence[Try], payment: OtherPayment, now: datetime) -> Transition:
    """Another PaymentIntent was paid for this attempt. Its own is cancelled, unless it has been paid too."""
    if attempt.has_ended or attempt.state is State.CHARGED or attempt.canceling:
        transition = Transition(attempt)
    else:
        transition = give_up(attempt, tries, PAID_OTHERWISE, now)
    return replace(transition, other_payment=payment, alert=Alert.SECOND_PAYMENT_INTENT)


def _reconcile_first(attempt: Attempt, payment: OtherPayment, now: datetime) -> Transition:
    """Which PaymentIntent its key has made is not known yet: this one most likely, but then Stripe is to say so. No
    call may charge any more; an answer that is under way is waited for."""
    next_at = attempt.next_at if attempt.state is State.CHARGING else now
    looked_for = replace(attempt, canceling=True, receipt_unapplied=False, reason=PAID_OTHERWISE, next_at=next_at)
    return Transition(looked_for, other_payment=payment)


def has_made_nothing(tries: Sequence[Try]) -> bool:
    """Whether it is proven that no call has made a PaymentIntent."""
    return all(one.outcome in NOTHING_MADE or (one.outcome is None and not one.in_doubt) for one in tries)
