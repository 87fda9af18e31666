"""What the state of a PaymentIntent means for its attempt: as read from Stripe now, or as shown by an event."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from recharge.core.attempts import Attempt, Outcome, State, Try, has_made_nothing, month_charged, month_of
from recharge.core.declines import TRIES_MAX, DeclineCodes, after_decline, authentication_required
from recharge.core.other_payments import after_other_payment
from recharge.core.proof import is_as_ordered
from recharge.core.transitions import (
    AUTHENTICATION_CHECKED_EVERY,
    CREDIT_EXPECTED_WITHIN,
    KEY_FORGOTTEN_AFTER,
    PROCESSING_CHECKED_EVERY,
    Alert,
    OtherPayment,
    Transition,
    close_last_try,
    end_as_canceled,
    give_up,
)
from shared.events import Card
from shared.stripe_events import PaymentIntentView


def after_payment_intent(
    attempt: Attempt, tries: Sequence[Try], view: PaymentIntentView, cards: Sequence[Card], now: datetime
) -> Transition:
    """Stripe has just returned this PaymentIntent: as a call's answer, from a retrieval or from a list."""
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
            processing = attempt.next_version(
                now, state=State.CHARGING, reason=None, next_at=now + PROCESSING_CHECKED_EVERY
            )
            return Transition(processing, close_last_try(tries, Outcome.PROCESSING, now))
        case "requires_action":
            return authentication_required(attempt, tries, now)
        case "requires_payment_method" | "requires_confirmation":
            if tries and not attempt.canceling and (waits_until := _key_in_doubt_until(tries[-1])) >= now:
                # The call whose answer is missing may still be executed, so no other call is made before that.
                return Transition(replace(attempt, next_at=waits_until + timedelta(seconds=1)))
            if view.error_code or view.decline_code:
                codes = DeclineCodes(view.error_code, view.decline_code, view.advice_code)
                return after_decline(attempt, tries, codes, cards, now)
            return _not_confirmed(attempt, tries, now)
        case _:
            waiting = replace(attempt, next_at=now + AUTHENTICATION_CHECKED_EVERY)
            return Transition(waiting, alert=Alert.UNEXPECTED_STATUS)


def after_event(attempt: Attempt, tries: Sequence[Try], view: PaymentIntentView, now: datetime) -> Transition:
    """One of Stripe's events shows this PaymentIntent, which is believed to be the attempt's (`proof.is_believable`).

    An event may be old. So only `succeeded` and `canceled`, which never change again, are taken from it; for everything
    else the executor asks Stripe.
    """
    if attempt.payment_intent is None and not attempt.has_ended and not has_made_nothing(tries):
        # Which PaymentIntent its key has made is not known yet, and a signed order can be copied: ask Stripe.
        return Transition(attempt if attempt.state is State.CHARGING else replace(attempt, next_at=now))
    if not is_as_ordered(attempt, view):
        if view.status == "succeeded" and (view.currency, view.customer) == (attempt.currency, attempt.stripe_customer):
            return after_other_payment(attempt, tries, OtherPayment(view.id, view.amount_minor, view.currency), now)
        return Transition(attempt, alert=Alert.SECOND_PAYMENT_INTENT)
    match view.status:
        case "succeeded" if attempt.payment_intent not in (None, view.id):
            return after_other_payment(attempt, tries, OtherPayment(view.id, view.amount_minor, view.currency), now)
        case "succeeded":
            return after_success(attempt, tries, view.id, now)
        case "canceled" if attempt.payment_intent in (None, view.id):
            return after_cancellation(replace(attempt, payment_intent=view.id), tries, now)
        case _ if attempt.has_ended:
            return Transition(attempt)
        case _ if attempt.payment_intent not in (None, view.id):
            return Transition(attempt, alert=Alert.SECOND_PAYMENT_INTENT)
        case _:
            known = replace(attempt, payment_intent=view.id)
            return Transition(replace(known, next_at=now) if attempt.state is State.UNKNOWN else known)


def after_success(attempt: Attempt, tries: Sequence[Try], payment_intent: str, now: datetime) -> Transition:
    """Stripe has the money. No earlier or later news changes that; only the ledger's entry ends the attempt."""
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
    charged = attempt.next_version(
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
    return Transition(charged, close_last_try(tries, Outcome.SUCCEEDED, now))


def after_cancellation(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Transition:
    """Its PaymentIntent is cancelled and can never succeed."""
    if attempt.state is State.CHARGED or attempt.state is State.CREDITED:
        return Transition(attempt, alert=Alert.CANCELED_AFTER_CHARGE)
    if attempt.state is State.CANCELED:
        return Transition(attempt)
    reason = attempt.reason if attempt.canceling else "canceled_at_stripe"
    return Transition(end_as_canceled(attempt, now, reason), close_last_try(tries, Outcome.CANCELED, now))


def _not_confirmed(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Transition:
    closed = close_last_try(tries, Outcome.NOT_CONFIRMED, now)
    if attempt.canceling:
        return Transition(replace(attempt, next_at=now + PROCESSING_CHECKED_EVERY), closed)
    if attempt.state is State.REQUIRES_ACTION:
        return Transition(replace(attempt, next_at=now + AUTHENTICATION_CHECKED_EVERY), closed)
    if len(tries) >= TRIES_MAX:
        return replace(give_up(attempt, tries, "too_many_tries", now, state=State.DECLINED), suspend="too_many_tries")
    retrying = attempt.next_version(now, state=State.RETRY_SCHEDULED, reason="not_confirmed", next_at=now)
    return Transition(retrying, closed)


def _key_in_doubt_until(last: Try) -> datetime:
    if last.in_doubt and last.outcome is None:
        return last.first_called_at + KEY_FORGOTTEN_AFTER
    return last.first_called_at - KEY_FORGOTTEN_AFTER
