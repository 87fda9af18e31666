"""Reconciles an attempt in doubt with Stripe: where to look for its PaymentIntent, and what each result means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from recharge.core.answers import UNPROVEN, Answer, NoAnswer, NotFound, OperatorError, PaymentIntentSeen
from recharge.core.attempts import Attempt, Outcome, State, Try
from recharge.core.declines import retry_or_give_up
from recharge.core.payment_intent import after_payment_intent
from recharge.core.transitions import (
    KEY_FORGOTTEN_AFTER,
    Alert,
    BreakerSignal,
    Transition,
    end_as_canceled,
    next_call_at,
)
from shared.events import Card

LISTED_AGAIN_AFTER = timedelta(minutes=10)
#: How often an attempt is checked while an operator has to decide about a PaymentIntent.
CHECKED_FOR_AN_OPERATOR_EVERY = timedelta(hours=1)
#: How far Stripe's clock may be behind ours when we list what was created since a call.
CLOCK_SKEW = timedelta(seconds=300)
#: A retrieval, list or cancellation that failed is repeated as if it were the fourth call.
_FAILED_CALLS = 4


@dataclass(frozen=True, slots=True)
class ListWindow:
    """Which PaymentIntents of the customer to list."""

    customer: str
    created_since: datetime


def list_window(attempt: Attempt, tries: Sequence[Try]) -> ListWindow:
    """Where the attempt's PaymentIntent must be, if it was made."""
    first = min((one.first_called_at for one in tries), default=attempt.created_at)
    return ListWindow(attempt.stripe_customer, first - CLOCK_SKEW)


def after_reading(
    attempt: Attempt,
    tries: Sequence[Try],
    answer: Answer,
    cards: Sequence[Card],
    *,
    is_list: bool,
    asked_at: datetime,
    now: datetime,
) -> Transition:
    """Stripe has answered a retrieval, a list (`is_list`) or a cancellation, for which it was asked at `asked_at`."""
    match answer:
        case PaymentIntentSeen(view):
            return after_payment_intent(attempt, tries, view, cards, now)
        case NotFound() if is_list:
            return after_empty_list(attempt, tries, asked_at, cards, now)
        case NoAnswer(kind) if is_list and kind == UNPROVEN:
            return _unproven_payment_intent(attempt, now)
        case NotFound():
            return after_missing_payment_intent(attempt, now)
        case _:
            waiting = replace(attempt, next_at=next_call_at(_FAILED_CALLS, now))
            return Transition(waiting, breaker=BreakerSignal.OPEN if isinstance(answer, OperatorError) else None)


def after_empty_list(
    attempt: Attempt, tries: Sequence[Try], asked_at: datetime, cards: Sequence[Card], now: datetime
) -> Transition:
    """The list shows no PaymentIntent of this attempt.

    That nothing was made is proven only by a second list, 10 minutes later, and once the key has a final answer or is
    forgotten. What counts is when a list was asked for, not when its answer is recorded.
    """
    assert attempt.payment_intent is None
    last = tries[-1]
    if attempt.not_found_at is None:
        return Transition(replace(attempt, not_found_at=asked_at, next_at=now + LISTED_AGAIN_AFTER))
    if asked_at < attempt.not_found_at + LISTED_AGAIN_AFTER:
        return Transition(replace(attempt, next_at=attempt.not_found_at + LISTED_AGAIN_AFTER))
    forgotten_at = last.first_called_at + KEY_FORGOTTEN_AFTER
    if last.outcome is None and asked_at <= forgotten_at:
        return Transition(replace(attempt, next_at=max(forgotten_at + timedelta(seconds=1), now + LISTED_AGAIN_AFTER)))
    closed = tuple(
        replace(one, outcome=Outcome.NEVER_MADE, in_doubt=False, answered_at=now)
        for one in tries
        if one.in_doubt or one.outcome in (None, Outcome.UNCLEAR, Outcome.DECLINED)
    )
    if attempt.canceling:
        return Transition(end_as_canceled(attempt, now), closed)
    if last.outcome is Outcome.DECLINED:  # nothing was made, but the card was declined
        found = replace(attempt, not_found_at=None)
        transition = retry_or_give_up(found, (*tries[: -len(closed)], *closed), last.code or "declined", cards, now)
        return replace(transition, tries=closed)
    retrying = attempt.next_version(
        now, state=State.RETRY_SCHEDULED, reason="never_made", next_at=now, not_found_at=None
    )
    return Transition(retrying, closed)


def _unproven_payment_intent(attempt: Attempt, now: datetime) -> Transition:
    """The list shows a PaymentIntent that names the attempt and is not signed by us. An operator has to decide whether
    it has paid the attempt."""
    waiting = replace(attempt, not_found_at=None, next_at=now + CHECKED_FOR_AN_OPERATOR_EVERY)
    return Transition(waiting, alert=Alert.UNPROVEN_PAYMENT_INTENT)


def after_missing_payment_intent(attempt: Attempt, now: datetime) -> Transition:
    """Stripe does not know the PaymentIntent whose id it returned earlier: an operator has to look."""
    waiting = replace(attempt, next_at=now + CHECKED_FOR_AN_OPERATOR_EVERY)
    return Transition(waiting, alert=Alert.PAYMENT_INTENT_GONE)
