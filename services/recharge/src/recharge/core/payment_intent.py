"""What a PaymentIntent as Stripe shows it, a decline or a refused card makes of an attempt. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from recharge.core.attempts import NOTHING_MADE, Attempt, Outcome, State, Try, month_charged, month_of
from recharge.core.cards import DeclineCodes, Verdict, remaining, untried, verdict_of
from recharge.core.transitions import (
    AUTHENTICATION_CHECKED_EVERY,
    CREDIT_EXPECTED_WITHIN,
    RETRY_DELAYS,
    TRIES_MAX,
    Alert,
    OtherPayment,
    Transition,
    end_as_canceled,
)
from shared.events import Card
from shared.stripe_events import PaymentIntentView

PROCESSING_CHECKED_EVERY = timedelta(minutes=1)
#: Stripe prunes keys after at least 24 h; then a request of the old key can no longer be taken for the same.
KEY_FORGOTTEN_AFTER = timedelta(hours=24)


def after_payment_intent(
    attempt: Attempt, tries: Sequence[Try], view: PaymentIntentView, cards: Sequence[Card], now: datetime
) -> Transition:
    """The attempt after its PaymentIntent was read from Stripe just now, by a call or by looking it up."""
    if attempt.payment_intent not in (None, view.id):
        seen = OtherPayment(view.id, view.amount_minor, view.currency) if view.status == "succeeded" else None
        waiting = replace(attempt, next_at=now + PROCESSING_CHECKED_EVERY)
        return Transition(waiting, alert=Alert.SECOND_PAYMENT_INTENT, other_payment=seen)
    if view.status != "succeeded" and (attempt.state is State.CHARGED or attempt.has_ended):
        return Transition(replace(attempt, next_at=now + CREDIT_EXPECTED_WITHIN), alert=Alert.UNEXPECTED_STATUS)
    attempt = replace(attempt, payment_intent=view.id, not_found_at=None)
    match view.status:
        case "succeeded":
            return after_success(attempt, tries, view.id, now)
        case "canceled":
            return after_cancellation(attempt, tries, now)
        case "processing":
            changed = attempt.next_version(
                now, state=State.CHARGING, reason=None, next_at=now + PROCESSING_CHECKED_EVERY
            )
            return Transition(changed, _close_last_try(tries, Outcome.PROCESSING, now))
        case "requires_action":
            return _authentication_required(attempt, tries, now)
        case "requires_payment_method" | "requires_confirmation":
            if tries and not attempt.canceling and (waits_until := _key_in_doubt_until(tries[-1])) >= now:
                # The call whose answer is missing may still come through, so there is no other one before that.
                return Transition(replace(attempt, next_at=waits_until + timedelta(seconds=1)))
            if view.error_code or view.decline_code:
                codes = DeclineCodes(view.error_code, view.decline_code, view.advice_code)
                return after_decline(attempt, tries, codes, cards, now)
            return _not_confirmed(attempt, tries, now)
        case _:
            return Transition(
                replace(attempt, next_at=now + AUTHENTICATION_CHECKED_EVERY), alert=Alert.UNEXPECTED_STATUS
            )


def after_success(attempt: Attempt, tries: Sequence[Try], payment_intent: str, now: datetime) -> Transition:
    """Stripe has the money: a fact that no later or older news undoes. Only the ledger's entry ends the attempt."""
    if attempt.payment_intent not in (None, payment_intent):
        return Transition(attempt, alert=Alert.SECOND_PAYMENT_INTENT)
    if attempt.state is State.CREDITED:
        return Transition(attempt)
    if attempt.state is State.CANCELED:
        if attempt.reserved_month is not None:
            return Transition(attempt)
        counted = attempt.next_version(
            now, reserved_month=month_of(now), payment_intent=payment_intent, reason="succeeded_after_end"
        )
        return Transition(counted, alert=Alert.SUCCEEDED_AFTER_END)
    if attempt.state is State.CHARGED:
        is_late = now - attempt.changed_at >= CREDIT_EXPECTED_WITHIN
        waiting = replace(attempt, next_at=now + CREDIT_EXPECTED_WITHIN)
        return Transition(waiting, alert=Alert.CHARGED_NOT_CREDITED if is_late else None)
    changed = attempt.next_version(
        now,
        state=State.CHARGED,
        payment_intent=payment_intent,
        reserved_month=month_charged(attempt, now),
        reason=None,
        action_required=None,
        canceling=False,
        not_found_at=None,
        next_at=now + CREDIT_EXPECTED_WITHIN,
    )
    return Transition(changed, _close_last_try(tries, Outcome.SUCCEEDED, now))


def after_cancellation(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Transition:
    """Its PaymentIntent can never succeed any more."""
    if attempt.state is State.CHARGED or attempt.state is State.CREDITED:
        return Transition(attempt, alert=Alert.CANCELED_AFTER_CHARGE)
    if attempt.state is State.CANCELED:
        return Transition(attempt)
    reason = attempt.reason if attempt.canceling else "canceled_at_stripe"
    return Transition(end_as_canceled(attempt, now, reason), _close_last_try(tries, Outcome.CANCELED, now))


def after_decline(
    attempt: Attempt, tries: Sequence[Try], codes: DeclineCodes, cards: Sequence[Card], now: datetime
) -> Transition:
    """A card was declined: another one at once, the same one later, or the end."""
    verdict = verdict_of(codes)
    if verdict is Verdict.AUTHENTICATE and not attempt.canceling:
        return _authentication_required(attempt, tries, now, codes.reason)
    may_repeat = verdict is Verdict.LATER
    closed = _close_last_try(tries, Outcome.DECLINED, now, codes.reason, may_repeat=may_repeat)
    last = tries[-1]
    stop = last if verdict is Verdict.NEVER_AGAIN else None
    transition = next_card(attempt, (*tries[:-1], *closed) if closed else tuple(tries), codes.reason, cards, now)
    return replace(transition, tries=closed, stop_card=stop)


def after_card_refused(
    attempt: Attempt, tries: Sequence[Try], code: str, cards: Sequence[Card], now: datetime
) -> Transition:
    """Stripe knows no such card or customer, so nothing was executed under this key."""
    closed = _close_last_try(tries, Outcome.CARD_UNUSABLE, now, code, may_repeat=False)
    transition = next_card(attempt, (*tries[:-1], *closed), code, cards, now)
    return replace(transition, tries=closed, suspend_cards=frozenset([tries[-1].payment_method]))


def after_order_refused(
    attempt: Attempt, tries: Sequence[Try], code: str, now: datetime, *, was_in_doubt: bool, made_nothing: bool
) -> Transition:
    """Stripe refuses this order whatever the card. Given up, and ended once it is proven that nothing was made of it:
    the refusal proves nothing of an earlier call, nor by itself of an execution that broke off."""
    last = replace(tries[-1], code=code, in_doubt=True)
    if not was_in_doubt:
        outcome = Outcome.NEVER_MADE if made_nothing else Outcome.UNCLEAR
        last = replace(last, outcome=outcome, in_doubt=not made_nothing, answered_at=now)
    transition = give_up(attempt, (*tries[:-1], last), "charge_refused", now, state=State.DECLINED)
    return replace(transition, tries=(last,), suspend="charge_refused", alert=Alert.CHARGE_REFUSED)


def give_up(
    attempt: Attempt, tries: Sequence[Try], reason: str, now: datetime, *, state: State | None = None
) -> Transition:
    """Ends the attempt, if it has made nothing; else has its PaymentIntent cancelled, which alone is an end."""
    if attempt.payment_intent is None and all(one.outcome in NOTHING_MADE or _is_untouched(one) for one in tries):
        closed = tuple(replace(one, outcome=Outcome.NEVER_MADE, answered_at=now) for one in tries if not one.outcome)
        return Transition(end_as_canceled(attempt, now, reason), closed)
    changed = attempt.next_version(now, state=state or attempt.state, reason=reason, canceling=True, next_at=now)
    return Transition(changed)


def _is_untouched(one: Try) -> bool:
    return one.outcome is None and not one.in_doubt


def next_card(attempt: Attempt, tries: Sequence[Try], reason: str, cards: Sequence[Card], now: datetime) -> Transition:
    """After a decline, the last of these tries: another card at once, the same one later, or the end."""
    if attempt.canceling:
        return Transition(replace(attempt, next_at=now + PROCESSING_CHECKED_EVERY))
    left = remaining(cards, tries)
    if len(tries) < TRIES_MAX and untried(left, tries):
        return Transition(attempt.next_version(now, state=State.RETRY_SCHEDULED, reason=reason, next_at=now))
    if len(tries) < TRIES_MAX and left and attempt.rounds < len(RETRY_DELAYS):
        at = now + RETRY_DELAYS[attempt.rounds]
        changed = attempt.next_version(
            now, state=State.RETRY_SCHEDULED, reason=reason, next_at=at, rounds=attempt.rounds + 1
        )
        return Transition(changed)
    told = replace(attempt, action_required="new_card")
    return replace(give_up(told, tries, reason, now, state=State.DECLINED), suspend=reason)


def _authentication_required(
    attempt: Attempt, tries: Sequence[Try], now: datetime, code: str = "authentication_required"
) -> Transition:
    closed = _close_last_try(tries, Outcome.AUTHENTICATION_REQUIRED, now, code)
    next_at = now + AUTHENTICATION_CHECKED_EVERY
    if attempt.canceling:
        return Transition(replace(attempt, next_at=now + PROCESSING_CHECKED_EVERY), closed)
    if attempt.state is State.REQUIRES_ACTION:
        return Transition(replace(attempt, next_at=next_at), closed)
    changed = attempt.next_version(
        now,
        state=State.REQUIRES_ACTION,
        reason="authentication_required",
        action_required="authenticate",
        next_at=next_at,
    )
    return Transition(changed, closed)


def _not_confirmed(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Transition:
    closed = _close_last_try(tries, Outcome.NOT_CONFIRMED, now)
    if attempt.canceling:
        return Transition(replace(attempt, next_at=now + PROCESSING_CHECKED_EVERY), closed)
    if attempt.state is State.REQUIRES_ACTION:
        return Transition(replace(attempt, next_at=now + AUTHENTICATION_CHECKED_EVERY), closed)
    if len(tries) >= TRIES_MAX:
        return replace(give_up(attempt, tries, "too_many_tries", now, state=State.DECLINED), suspend="too_many_tries")
    changed = attempt.next_version(now, state=State.RETRY_SCHEDULED, reason="not_confirmed", next_at=now)
    return Transition(changed, closed)


def _key_in_doubt_until(last: Try) -> datetime:
    if last.in_doubt and last.outcome is None:
        return last.first_called_at + KEY_FORGOTTEN_AFTER
    return last.first_called_at - KEY_FORGOTTEN_AFTER


def _close_last_try(
    tries: Sequence[Try], outcome: Outcome, now: datetime, code: str | None = None, *, may_repeat: bool = True
) -> tuple[Try, ...]:
    """The last try with its final outcome. One that was closed as something clear before keeps that."""
    if not tries or tries[-1].outcome not in (None, Outcome.UNCLEAR, Outcome.PROCESSING):
        return ()
    last = tries[-1]
    return (
        replace(
            last,
            outcome=outcome,
            code=code or last.code,
            in_doubt=False,
            may_repeat=may_repeat,
            answered_at=now,
        ),
    )
