"""Moving an attempt to `charging`, and what each answer to that call makes of it. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from recharge.core.answers import (
    Answer,
    CardUnusable,
    Declined,
    InProgress,
    NoAnswer,
    NotFound,
    OperatorError,
    OrderRefused,
    PaymentIntentSeen,
    RateLimited,
    Refused,
    ServerError,
    UnexpectedState,
)
from recharge.core.attempts import NOTHING_MADE, Attempt, Outcome, State, Try, month_of
from recharge.core.cards import DeclineCodes, Verdict, choose, verdict_of
from recharge.core.payment_intent import after_card_refused, after_decline, after_order_refused, after_payment_intent
from recharge.core.transitions import LEASE, BreakerSignal, Transition, next_call_at
from shared.events import Card

#: The second 5xx under one key is that key's last word: Stripe keeps and repeats it.
SERVER_ERRORS_MAX = 2


def begin_try(attempt: Attempt, tries: Sequence[Try], cards: Sequence[Card], now: datetime) -> Transition | None:
    """The attempt on its way to Stripe, with the try to call; None where no card is left to charge.

    A try that was certainly not executed is called again under its own key. A PaymentIntent is created only where
    every earlier key is proven to have made none.
    """
    assert attempt.state in (State.RESERVED, State.RETRY_SCHEDULED)
    last = tries[-1] if tries else None
    closed: tuple[Try, ...] = ()
    if last is not None and last.outcome is None:
        assert not last.in_doubt, "a key in doubt is found out, not charged past"
        if any(card.payment_method == last.payment_method for card in cards):
            # No call under it was executed: its age begins with this one.
            calling = replace(last, first_called_at=now, calls=last.calls + 1, in_doubt=True)
            return Transition(_charging(attempt, calling, now), (calling,))
        closed = (replace(last, outcome=Outcome.NEVER_MADE, answered_at=now),)
        tries = (*tries[:-1], *closed)
    card = choose(cards, tries)
    if card is None:
        return None
    creates = attempt.payment_intent is None
    assert not creates or all(one.outcome in NOTHING_MADE for one in tries), "one PaymentIntent an attempt"
    n = len(tries) + 1
    calling = Try(
        n=n,
        payment_method=card.payment_method,
        fingerprint=card.fingerprint,
        idempotency_key=f"{attempt.attempt}:{n}",
        creates=creates,
        first_called_at=now,
        calls=1,
        in_doubt=True,
    )
    return Transition(_charging(attempt, calling, now), (*closed, calling))


def _charging(attempt: Attempt, calling: Try, now: datetime) -> Attempt:
    return attempt.next_version(
        now,
        state=State.CHARGING,
        n=calling.n,
        reserved_month=month_of(now),
        next_at=now + LEASE,
        reason=None,
        action_required=None,
        not_found_at=None,
    )


def repeat_try(attempt: Attempt, last: Try, now: datetime) -> Transition:
    """The same key once more, for an attempt whose try is in doubt."""
    assert last.outcome is None and last.in_doubt
    return Transition(replace(attempt, next_at=now + LEASE), (replace(last, calls=last.calls + 1),))


def after_answer(
    attempt: Attempt,
    tries: Sequence[Try],
    answer: Answer,
    cards: Sequence[Card],
    *,
    was_in_doubt: bool,
    now: datetime,
    is_refused_to_others: bool = False,
) -> Transition:
    """What the answer to the last try's call makes of the attempt.

    `was_in_doubt`: an earlier call under this key may have been executed. Then an answer that this call was not
    executed says nothing about the earlier one. `is_refused_to_others`: Stripe has refused the same package or currency
    to several tenants, so another refusal is not this tenant's fault.
    """
    last = tries[-1]
    assert last.n == attempt.n and last.outcome is None
    match answer:
        case PaymentIntentSeen(view):
            told = (*tries[:-1], replace(last, in_doubt=False))
            return replace(after_payment_intent(attempt, told, view, cards, now), breaker=BreakerSignal.CLOSE)
        case Declined(codes, view):
            payment_intent = attempt.payment_intent or (view.id if view else None)
            if payment_intent is None:
                return _declined_without_a_payment_intent(attempt, last, codes, now)
            transition = after_decline(replace(attempt, payment_intent=payment_intent), tries, codes, cards, now)
            return replace(transition, breaker=BreakerSignal.CLOSE)
        case CardUnusable(code):
            if was_in_doubt:
                # A 400 is not kept under the key, so it is not the earlier call's answer.
                return replace(_unknown(attempt, last, code, now), breaker=BreakerSignal.KEY_ACCEPTED)
            return replace(after_card_refused(attempt, tries, code, cards, now), breaker=BreakerSignal.KEY_ACCEPTED)
        case Refused(code):
            transition = _not_executed(attempt, last, f"stripe_400_{code}", was_in_doubt=was_in_doubt, now=now)
            return replace(transition, breaker=BreakerSignal.KEY_ACCEPTED)
        case OrderRefused() if is_refused_to_others:
            transition = _not_executed(attempt, last, "refused_to_several_tenants", was_in_doubt=was_in_doubt, now=now)
            return replace(transition, breaker=BreakerSignal.ORDER_REFUSED)
        case OrderRefused(code, made_nothing):
            transition = after_order_refused(
                attempt, tries, code, now, was_in_doubt=was_in_doubt, made_nothing=made_nothing
            )
            return replace(transition, breaker=BreakerSignal.ORDER_REFUSED)
        case UnexpectedState(code):
            return _unclear(attempt, last, code, now)
        case NotFound():
            if last.creates:
                return _not_executed(attempt, last, "not_found", was_in_doubt=was_in_doubt, now=now)
            return _unclear(attempt, last, "payment_intent_not_found", now)
        case OperatorError(status, code):
            transition = _not_executed(attempt, last, f"stripe_{status}_{code}", was_in_doubt=was_in_doubt, now=now)
            return replace(transition, breaker=BreakerSignal.OPEN)
        case RateLimited():
            return _not_executed(attempt, last, "rate_limited", was_in_doubt=was_in_doubt, now=now)
        case InProgress():
            return _unknown(attempt, last, "in_progress", now)
        case ServerError(status):
            last = replace(last, server_errors=last.server_errors + 1, code=f"stripe_{status}")
            if last.server_errors >= SERVER_ERRORS_MAX:
                return _unclear(attempt, last, f"stripe_{status}", now)
            return _unknown(attempt, last, f"stripe_{status}", now)
        case NoAnswer(kind):
            return _unknown(attempt, last, kind, now)
    assert_never(answer)


def _unknown(attempt: Attempt, last: Try, reason: str, now: datetime) -> Transition:
    changed = attempt.next_version(now, state=State.UNKNOWN, reason=reason, next_at=next_call_at(last.calls, now))
    return Transition(changed, (replace(last, in_doubt=True),))


def _unclear(attempt: Attempt, last: Try, code: str, now: datetime) -> Transition:
    closed = replace(last, outcome=Outcome.UNCLEAR, code=code, in_doubt=True, answered_at=now)
    return Transition(attempt.next_version(now, state=State.UNKNOWN, reason=code, next_at=now), (closed,))


def _declined_without_a_payment_intent(attempt: Attempt, last: Try, codes: DeclineCodes, now: datetime) -> Transition:
    """Looked for first. The decline counts whatever is found: a card that is never to be charged again is stopped."""
    verdict = verdict_of(codes)
    closed = replace(
        last, outcome=Outcome.DECLINED, code=codes.reason, in_doubt=True, answered_at=now,
        may_repeat=verdict is Verdict.LATER,
    )  # fmt: skip
    changed = attempt.next_version(now, state=State.UNKNOWN, reason=codes.reason, next_at=now)
    return Transition(changed, (closed,), stop_card=last if verdict is Verdict.NEVER_AGAIN else None)


def _not_executed(attempt: Attempt, last: Try, reason: str, *, was_in_doubt: bool, now: datetime) -> Transition:
    if was_in_doubt:
        return _unknown(attempt, last, reason, now)
    state = State.RESERVED if attempt.payment_intent is None and attempt.n == 1 else State.RETRY_SCHEDULED
    changed = attempt.next_version(now, state=state, reason=reason, next_at=next_call_at(last.calls, now))
    return Transition(changed, (replace(last, in_doubt=False, code=reason),))
