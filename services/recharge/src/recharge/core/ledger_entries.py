"""What the ledger's entries mean for the attempts that they name: credits posted, or a receipt that is not applied."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from recharge.core.attempts import Attempt, State, Try, has_made_nothing, month_charged
from recharge.core.other_payments import PAID_OTHERWISE, after_other_payment
from recharge.core.transitions import Alert, OtherPayment, Transition
from shared.events import EntryPosted

#: The kind of the entry that credits a charge: at once, or when an operator credits its receipt.
RECHARGE = "recharge"
UNAPPLIED_RECEIPT = "unapplied_receipt"


def is_of_charge(entry: EntryPosted) -> bool:
    """Whether the entry is about the payment of an attempt."""
    return bool(entry.attempt) and entry.kind in (RECHARGE, UNAPPLIED_RECEIPT)


def payment_of(entry: EntryPosted) -> OtherPayment | None:
    """The payment that the entry is for; None if the entry does not say."""
    if entry.payment_intent is None or entry.amount_minor is None or entry.currency is None:
        return None
    return OtherPayment(entry.payment_intent, entry.amount_minor, entry.currency, is_credited=entry.kind == RECHARGE)


def after_entry(attempt: Attempt, tries: Sequence[Try], payment: OtherPayment, now: datetime) -> Transition:
    """The ledger has posted an entry for this payment that names this attempt: with its credits, or without."""
    after = _after_credits if payment.is_credited else _after_receipt
    return after(attempt, tries, payment, now)


def _after_credits(attempt: Attempt, tries: Sequence[Try], payment: OtherPayment, now: datetime) -> Transition:
    if attempt.payment_intent == payment.payment_intent:
        return after_credit(attempt, now)
    is_alike = (payment.amount_minor, payment.currency) == (attempt.amount_minor, attempt.currency)
    if attempt.payment_intent is None and is_alike:
        if attempt.has_ended:
            return after_credit(replace(attempt, payment_intent=payment.payment_intent), now)
        if not has_made_nothing(tries):
            return _reconcile_first(attempt, payment, now)
    return after_other_payment(replace(attempt, receipt_unapplied=False), tries, payment, now)


def _after_receipt(attempt: Attempt, tries: Sequence[Try], payment: OtherPayment, now: datetime) -> Transition:
    if attempt.payment_intent == payment.payment_intent:
        return after_unapplied_receipt(attempt, now)
    if attempt.payment_intent is None:  # most likely its own; it counts as another payment until that is known
        return replace(after_unapplied_receipt(attempt, now), other_payment=payment)
    return after_other_payment(attempt, tries, payment, now)


def after_credit(attempt: Attempt, now: datetime) -> Transition:
    """The ledger has posted the attempt's credits: the only successful end."""
    if attempt.state is State.CREDITED:
        return Transition(attempt)
    is_known_charged = attempt.state in (State.CHARGED, State.CANCELED) and attempt.reserved_month is not None
    credited = attempt.next_version(
        now,
        state=State.CREDITED,
        reason=None,
        action_required=None,
        canceling=False,
        receipt_unapplied=False,
        reserved_month=attempt.reserved_month if is_known_charged else month_charged(attempt, now),
        next_at=now,
    )
    return Transition(credited, alert=Alert.CREDITED_AFTER_END if attempt.state is State.CANCELED else None)


def after_unapplied_receipt(attempt: Attempt, now: datetime) -> Transition:
    """The ledger has the money but could not verify what it was for. The attempt waits until an operator decides."""
    if attempt.state is State.CREDITED or attempt.receipt_unapplied:
        return Transition(attempt)
    waiting = attempt.next_version(now, receipt_unapplied=True, reason="receipt_unapplied")
    return Transition(waiting, alert=Alert.RECEIPT_UNAPPLIED)


def _reconcile_first(attempt: Attempt, payment: OtherPayment, now: datetime) -> Transition:
    """Which PaymentIntent its key has made is not known yet. Most likely it is this one, but Stripe has to confirm
    that. No call may charge any more; a call that is under way is waited for."""
    next_at = attempt.next_at if attempt.state is State.CHARGING else now
    reconciling = replace(attempt, canceling=True, receipt_unapplied=False, reason=PAID_OTHERWISE, next_at=next_at)
    return Transition(reconciling, other_payment=payment)
