"""What a PaymentIntent as Stripe shows it, a decline or a refused card makes of an attempt. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from recharge.core.attempts import NOTHING_MADE, Attempt, Outcome, State, Try, month_charged, month_of
from recharge.core.cards import DeclineCodes, Verdict, judge, remaining, untried
from recharge.core.moves import (
    ACTION_LOOKED_AT_EVERY,
    BACK_OFF,
    CREDIT_EXPECTED_WITHIN,
    TRIES_MAX,
    Alert,
    Move,
    OtherPayment,
    ended_canceled,
)
from shared.events import Card
from shared.stripe_events import PaymentIntentView

PROCESSING_LOOKED_AT_EVERY = timedelta(minutes=1)
#: Stripe prunes keys after at least 24 h; then a request of the old key can no longer be taken for the same.
KEY_FORGOTTEN_AFTER = timedelta(hours=24)


def follow(
    attempt: Attempt, tries: Sequence[Try], view: PaymentIntentView, cards: Sequence[Card], now: datetime
) -> Move:
    """The attempt after its PaymentIntent was read from Stripe just now, by a call or by looking it up."""
    if attempt.payment_intent not in (None, view.id):
        seen = OtherPayment(view.id, view.amount_minor, view.currency) if view.status == "succeeded" else None
        waiting = replace(attempt, next_at=now + PROCESSING_LOOKED_AT_EVERY)
        return Move(waiting, alert=Alert.SECOND_PAYMENT_INTENT, other_payment=seen)
    if view.status != "succeeded" and (attempt.state is State.CHARGED or attempt.has_ended):
        return Move(replace(attempt, next_at=now + CREDIT_EXPECTED_WITHIN), alert=Alert.UNEXPECTED_STATUS)
    attempt = replace(attempt, payment_intent=view.id, not_found_at=None)
    match view.status:
        case "succeeded":
            return charged(attempt, tries, view.id, now)
        case "canceled":
            return canceled(attempt, tries, now)
        case "processing":
            moved = attempt.moved(now, state=State.CHARGING, reason=None, next_at=now + PROCESSING_LOOKED_AT_EVERY)
            return Move(moved, _settle(tries, Outcome.PROCESSING, now))
        case "requires_action":
            return _authentication_required(attempt, tries, now)
        case "requires_payment_method" | "requires_confirmation":
            if tries and not attempt.canceling and (waits_until := _key_in_doubt_until(tries[-1])) >= now:
                # The call whose answer is missing may still come through, so there is no other one before that.
                return Move(replace(attempt, next_at=waits_until + timedelta(seconds=1)))
            if view.error_code or view.decline_code:
                codes = DeclineCodes(view.error_code, view.decline_code, view.advice_code)
                return after_decline(attempt, tries, codes, cards, now)
            return _not_confirmed(attempt, tries, now)
        case _:
            return Move(replace(attempt, next_at=now + ACTION_LOOKED_AT_EVERY), alert=Alert.UNEXPECTED_STATUS)


def charged(attempt: Attempt, tries: Sequence[Try], payment_intent: str, now: datetime) -> Move:
    """Stripe has the money: a fact that no later or older news undoes. Only the ledger's entry ends the attempt."""
    if attempt.payment_intent not in (None, payment_intent):
        return Move(attempt, alert=Alert.SECOND_PAYMENT_INTENT)
    if attempt.state is State.CREDITED:
        return Move(attempt)
    if attempt.state is State.CANCELED:
        if attempt.reserved_month is not None:
            return Move(attempt)
        counted = attempt.moved(
            now, reserved_month=month_of(now), payment_intent=payment_intent, reason="succeeded_after_end"
        )
        return Move(counted, alert=Alert.SUCCEEDED_AFTER_END)
    if attempt.state is State.CHARGED:
        is_late = now - attempt.changed_at >= CREDIT_EXPECTED_WITHIN
        waiting = replace(attempt, next_at=now + CREDIT_EXPECTED_WITHIN)
        return Move(waiting, alert=Alert.CHARGED_NOT_CREDITED if is_late else None)
    moved = attempt.moved(
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
    return Move(moved, _settle(tries, Outcome.SUCCEEDED, now))


def canceled(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Move:
    """Its PaymentIntent can never succeed any more."""
    if attempt.state is State.CHARGED or attempt.state is State.CREDITED:
        return Move(attempt, alert=Alert.CANCELED_AFTER_CHARGE)
    if attempt.state is State.CANCELED:
        return Move(attempt)
    reason = attempt.reason if attempt.canceling else "canceled_at_stripe"
    return Move(ended_canceled(attempt, now, reason), _settle(tries, Outcome.CANCELED, now))


def after_decline(
    attempt: Attempt, tries: Sequence[Try], codes: DeclineCodes, cards: Sequence[Card], now: datetime
) -> Move:
    """A card was declined: another one at once, the same one later, or the end."""
    verdict = judge(codes)
    if verdict is Verdict.AUTHENTICATE and not attempt.canceling:
        return _authentication_required(attempt, tries, now, codes.reason)
    may_repeat = verdict is Verdict.LATER
    settled = _settle(tries, Outcome.DECLINED, now, codes.reason, may_repeat=may_repeat)
    last = tries[-1]
    stop = last if verdict is Verdict.NEVER_AGAIN else None
    move = next_card(attempt, (*tries[:-1], *settled) if settled else tuple(tries), codes.reason, cards, now)
    return replace(move, tries=settled, stop_card=stop)


def after_card_refused(attempt: Attempt, tries: Sequence[Try], code: str, cards: Sequence[Card], now: datetime) -> Move:
    """Stripe knows no such card or customer, so nothing was executed under this key."""
    settled = _settle(tries, Outcome.CARD_UNUSABLE, now, code, may_repeat=False)
    move = next_card(attempt, (*tries[:-1], *settled), code, cards, now)
    return replace(move, tries=settled, suspend_cards=frozenset([tries[-1].payment_method]))


def after_order_refused(
    attempt: Attempt, tries: Sequence[Try], code: str, now: datetime, *, doubted: bool, made_nothing: bool
) -> Move:
    """Stripe refuses this order whatever the card. Given up, and ended once it is proven that nothing was made of it:
    the refusal proves nothing of an earlier call, nor by itself of an execution that broke off."""
    last = replace(tries[-1], code=code, in_doubt=True)
    if not doubted:
        outcome = Outcome.NEVER_MADE if made_nothing else Outcome.UNCLEAR
        last = replace(last, outcome=outcome, in_doubt=not made_nothing, answered_at=now)
    move = give_up(attempt, (*tries[:-1], last), "charge_refused", now, state=State.DECLINED)
    return replace(move, tries=(last,), suspend="charge_refused", alert=Alert.CHARGE_REFUSED)


def give_up(attempt: Attempt, tries: Sequence[Try], reason: str, now: datetime, *, state: State | None = None) -> Move:
    """Ends the attempt, if it has made nothing; else has its PaymentIntent cancelled, which alone is an end."""
    if attempt.payment_intent is None and all(one.outcome in NOTHING_MADE or _is_untouched(one) for one in tries):
        settled = tuple(replace(one, outcome=Outcome.NEVER_MADE, answered_at=now) for one in tries if not one.outcome)
        return Move(ended_canceled(attempt, now, reason), settled)
    moved = attempt.moved(now, state=state or attempt.state, reason=reason, canceling=True, next_at=now)
    return Move(moved)


def _is_untouched(one: Try) -> bool:
    return one.outcome is None and not one.in_doubt


def next_card(attempt: Attempt, tries: Sequence[Try], reason: str, cards: Sequence[Card], now: datetime) -> Move:
    """After a decline, the last of these tries: another card at once, the same one later, or the end."""
    if attempt.canceling:
        return Move(replace(attempt, next_at=now + PROCESSING_LOOKED_AT_EVERY))
    left = remaining(cards, tries)
    if len(tries) < TRIES_MAX and untried(left, tries):
        return Move(attempt.moved(now, state=State.RETRY_SCHEDULED, reason=reason, next_at=now))
    if len(tries) < TRIES_MAX and left and attempt.rounds < len(BACK_OFF):
        at = now + BACK_OFF[attempt.rounds]
        moved = attempt.moved(now, state=State.RETRY_SCHEDULED, reason=reason, next_at=at, rounds=attempt.rounds + 1)
        return Move(moved)
    told = replace(attempt, action_required="new_card")
    return replace(give_up(told, tries, reason, now, state=State.DECLINED), suspend=reason)


def _authentication_required(
    attempt: Attempt, tries: Sequence[Try], now: datetime, code: str = "authentication_required"
) -> Move:
    settled = _settle(tries, Outcome.AUTHENTICATION_REQUIRED, now, code)
    next_at = now + ACTION_LOOKED_AT_EVERY
    if attempt.canceling:
        return Move(replace(attempt, next_at=now + PROCESSING_LOOKED_AT_EVERY), settled)
    if attempt.state is State.REQUIRES_ACTION:
        return Move(replace(attempt, next_at=next_at), settled)
    moved = attempt.moved(
        now,
        state=State.REQUIRES_ACTION,
        reason="authentication_required",
        action_required="authenticate",
        next_at=next_at,
    )
    return Move(moved, settled)


def _not_confirmed(attempt: Attempt, tries: Sequence[Try], now: datetime) -> Move:
    settled = _settle(tries, Outcome.NOT_CONFIRMED, now)
    if attempt.canceling:
        return Move(replace(attempt, next_at=now + PROCESSING_LOOKED_AT_EVERY), settled)
    if attempt.state is State.REQUIRES_ACTION:
        return Move(replace(attempt, next_at=now + ACTION_LOOKED_AT_EVERY), settled)
    if len(tries) >= TRIES_MAX:
        return replace(give_up(attempt, tries, "too_many_tries", now, state=State.DECLINED), suspend="too_many_tries")
    moved = attempt.moved(now, state=State.RETRY_SCHEDULED, reason="not_confirmed", next_at=now)
    return Move(moved, settled)


def _key_in_doubt_until(last: Try) -> datetime:
    if last.in_doubt and last.outcome is None:
        return last.first_called_at + KEY_FORGOTTEN_AFTER
    return last.first_called_at - KEY_FORGOTTEN_AFTER


def _settle(
    tries: Sequence[Try], outcome: Outcome, now: datetime, code: str | None = None, *, may_repeat: bool = True
) -> tuple[Try, ...]:
    """The last try with its final outcome. One that was settled as something clear before keeps that."""
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
