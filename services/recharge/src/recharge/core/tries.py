"""One try of an attempt: how it begins or is repeated, and what Stripe's answer to its call means."""

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
from recharge.core.cards import choose
from recharge.core.declines import (
    DeclineCodes,
    Verdict,
    after_card_refused,
    after_decline,
    after_order_refused,
    verdict_of,
    without_card,
)
from recharge.core.payment_intent import after_payment_intent
from recharge.core.situation import Reason
from recharge.core.transitions import LEASE, BreakerSignal, Transition, give_up, next_call_at
from shared.events import Card

#: The second 5xx under one key is final: Stripe keeps the answer and repeats it.
SERVER_ERRORS_MAX = 2


def begin_try(attempt: Attempt, tries: Sequence[Try], cards: Sequence[Card], now: datetime) -> Transition | None:
    """The attempt in `charging`, with the try to call; None where no card is left to charge.

    A try that was certainly not executed is called again under its own key. A PaymentIntent is created only where every
    earlier key is proven to have made none.
    """
    assert attempt.state in (State.RESERVED, State.RETRY_SCHEDULED)
    last = tries[-1] if tries else None
    closed: tuple[Try, ...] = ()
    if last is not None and last.outcome is None:
        assert not last.in_doubt, "a key in doubt is reconciled before the next try"
        if any(card.payment_method == last.payment_method for card in cards):
            # No call under this key was executed, so its age begins with this call.
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


def no_card_left(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Transition:
    """What becomes of an attempt for which `begin_try` has found no card."""
    return without_card(attempt, tries, Reason.NO_CARD, now)


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


def may_repeat_key(tries: Sequence[Try], cards: Sequence[Card]) -> bool:
    """Whether the card of the last try may still be charged: a repeated key may be the first to charge it."""
    return any(card.payment_method == tries[-1].payment_method for card in cards)


def repeat_try(attempt: Attempt, last: Try, now: datetime) -> Transition:
    """The same key called once more, for a try in doubt."""
    assert last.outcome is None and last.in_doubt
    return Transition(replace(attempt, next_at=now + LEASE), (replace(last, calls=last.calls + 1),))


def key_without_card(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Transition:
    """The card of a key in doubt was removed: what the key has made is listed and cancelled, and never charged."""
    return give_up(attempt, tries, "card_removed", now)


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
    """Stripe has answered the last try's call.

    `was_in_doubt`: an earlier call under this key may have been executed. Then an answer that this call was not
    executed says nothing about the earlier one. `is_refused_to_others`: Stripe has refused the same package or currency
    to several tenants, so another refusal is not this tenant's fault.
    """
    last = tries[-1]
    assert last.n == attempt.n and last.outcome is None
    match answer:
        case PaymentIntentSeen(view):
            answered = (*tries[:-1], replace(last, in_doubt=False))
            return replace(after_payment_intent(attempt, answered, view, cards, now), breaker=BreakerSignal.CLOSE)
        case Declined(codes, view):
            payment_intent = attempt.payment_intent or (view.id if view else None)
            if payment_intent is None:
                return _declined_without_a_payment_intent(attempt, last, codes, now)
            transition = after_decline(replace(attempt, payment_intent=payment_intent), tries, codes, cards, now)
            return replace(transition, breaker=BreakerSignal.CLOSE)
        case CardUnusable(code):
            if was_in_doubt:
                # Stripe does not keep a 400 under the key, so this is not the earlier call's answer.
                transition = _unknown(attempt, last, code, now)
            else:
                transition = after_card_refused(attempt, tries, code, cards, now)
            return replace(transition, breaker=BreakerSignal.KEY_ACCEPTED)
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
    """The call may have been executed: the same key is called again."""
    unknown = attempt.next_version(now, state=State.UNKNOWN, reason=reason, next_at=next_call_at(last.calls, now))
    return Transition(unknown, (replace(last, in_doubt=True),))


def _unclear(attempt: Attempt, last: Try, code: str, now: datetime) -> Transition:
    """The key's answer is final, but does not show what it made: that is read from Stripe."""
    closed = replace(last, outcome=Outcome.UNCLEAR, code=code, in_doubt=True, answered_at=now)
    return Transition(attempt.next_version(now, state=State.UNKNOWN, reason=code, next_at=now), (closed,))


def _declined_without_a_payment_intent(attempt: Attempt, last: Try, codes: DeclineCodes, now: datetime) -> Transition:
    """The PaymentIntent is listed first. Whatever is found, the decline counts: a card that must never be charged
    again is stopped."""
    verdict = verdict_of(codes)
    closed = replace(
        last, outcome=Outcome.DECLINED, code=codes.reason, in_doubt=True, answered_at=now,
        may_repeat=verdict is Verdict.LATER,
    )  # fmt: skip
    unknown = attempt.next_version(now, state=State.UNKNOWN, reason=codes.reason, next_at=now)
    return Transition(unknown, (closed,), stop_card_of=last if verdict is Verdict.NEVER_AGAIN else None)


def _not_executed(attempt: Attempt, last: Try, reason: str, *, was_in_doubt: bool, now: datetime) -> Transition:
    """The call was certainly not executed: it is made again under the same key, unless an earlier one is in doubt."""
    if was_in_doubt:
        return _unknown(attempt, last, reason, now)
    state = State.RESERVED if attempt.payment_intent is None and attempt.n == 1 else State.RETRY_SCHEDULED
    waiting = attempt.next_version(now, state=state, reason=reason, next_at=next_call_at(last.calls, now))
    return Transition(waiting, (replace(last, in_doubt=False, code=reason),))
