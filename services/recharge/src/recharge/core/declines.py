"""What a decline means, and whether and when the declined card is tried again.

Sources: Stripe's documentation on decline codes and advice codes, and on the card networks' rules that some declines
must never be retried (https://docs.stripe.com/declines/codes, https://docs.stripe.com/declines/card).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from recharge.core.attempts import Attempt, Outcome, State, Try
from recharge.core.cards import remaining, untried
from recharge.core.transitions import (
    AUTHENTICATION_CHECKED_EVERY,
    PROCESSING_CHECKED_EVERY,
    Alert,
    Transition,
    close_last_try,
    give_up,
    with_changed,
)
from shared.events import Card

#: The issuer says that this card will never pay. It is stopped, also if it is saved again, until
#: `cards.still_stopped` lifts that.
NEVER_AGAIN_CODES = frozenset(
    [
        "card_not_supported", "currency_not_supported", "fraudulent", "incorrect_number", "invalid_account",
        "invalid_number", "lost_card", "new_account_information_available", "no_action_taken", "not_permitted",
        "pickup_card", "restricted_card", "revocation_of_all_authorizations", "revocation_of_authorization",
        "security_violation", "service_not_allowed", "stolen_card", "stop_payment_order", "testmode_decline",
        "transaction_not_allowed",
    ]
)  # fmt: skip
NEVER_AGAIN_ADVICE = "do_not_try_again"
#: The card may pay again once its owner has changed something about it, but not within this attempt.
NOT_IN_THIS_ATTEMPT_CODES = frozenset(["expired_card", "incorrect_cvc", "invalid_cvc", "invalid_expiry_month"])
NOT_IN_THIS_ATTEMPT_ADVICE = "confirm_card_data"
#: After a decline the same card is tried again after each of these delays in turn. Then the attempt is given up.
RETRY_DELAYS = (timedelta(hours=1), timedelta(hours=6), timedelta(hours=24), timedelta(hours=72))
#: Tries of one attempt, of all cards together.
TRIES_MAX = 12


class Verdict(StrEnum):
    """What a decline says about the card."""

    AUTHENTICATE = "authenticate"
    LATER = "later"
    NOT_IN_THIS_ATTEMPT = "not_in_this_attempt"
    NEVER_AGAIN = "never_again"


@dataclass(frozen=True, slots=True)
class DeclineCodes:
    """Stripe's codes for a decline."""

    code: str | None
    decline_code: str | None
    advice_code: str | None

    @property
    def reason(self) -> str:
        """The most specific of them."""
        return self.decline_code or self.code or "card_declined"


def verdict_of(codes: DeclineCodes) -> Verdict:
    """What this decline says about the card that was charged."""
    names = {codes.code, codes.decline_code}
    if "authentication_required" in names:
        return Verdict.AUTHENTICATE
    if codes.advice_code == NEVER_AGAIN_ADVICE or names & NEVER_AGAIN_CODES:
        return Verdict.NEVER_AGAIN
    if codes.advice_code == NOT_IN_THIS_ATTEMPT_ADVICE or names & NOT_IN_THIS_ATTEMPT_CODES:
        return Verdict.NOT_IN_THIS_ATTEMPT
    return Verdict.LATER


def after_decline(
    attempt: Attempt, tries: Sequence[Try], codes: DeclineCodes, cards: Sequence[Card], now: datetime
) -> Transition:
    """The card of the last try was declined. `cards` are the cards that may be charged now: the chosen one, or none."""
    verdict = verdict_of(codes)
    if verdict is Verdict.AUTHENTICATE and not attempt.canceling:
        return authentication_required(attempt, tries, now, codes.reason)
    closed = close_last_try(tries, Outcome.DECLINED, now, codes.reason, may_repeat=verdict is Verdict.LATER)
    transition = retry_or_give_up(attempt, with_changed(tries, closed), codes.reason, cards, now)
    return replace(transition, tries=closed, stop_card_of=tries[-1] if verdict is Verdict.NEVER_AGAIN else None)


def after_card_refused(
    attempt: Attempt, tries: Sequence[Try], code: str, cards: Sequence[Card], now: datetime
) -> Transition:
    """Stripe knows no such card or customer, so nothing was executed under this key."""
    closed = close_last_try(tries, Outcome.CARD_UNUSABLE, now, code, may_repeat=False)
    transition = retry_or_give_up(attempt, with_changed(tries, closed), code, cards, now)
    return replace(transition, tries=closed, suspend_cards=frozenset([tries[-1].payment_method]))


def after_order_refused(
    attempt: Attempt, tries: Sequence[Try], code: str, now: datetime, *, was_in_doubt: bool, made_nothing: bool
) -> Transition:
    """Stripe refuses the amount, currency or package, whichever card is charged: the attempt is given up.

    It ends once it is proven that no PaymentIntent was made. The refusal proves that where it says so itself
    (`made_nothing`) and no earlier call was in doubt. Otherwise the attempt is reconciled with Stripe first.
    """
    last = replace(tries[-1], code=code, in_doubt=True)
    if not was_in_doubt:
        outcome = Outcome.NEVER_MADE if made_nothing else Outcome.UNCLEAR
        last = replace(last, outcome=outcome, in_doubt=not made_nothing, answered_at=now)
    transition = give_up(attempt, (*tries[:-1], last), "charge_refused", now, state=State.DECLINED)
    return replace(transition, tries=(last,), suspend="charge_refused", alert=Alert.CHARGE_REFUSED)


def retry_or_give_up(
    attempt: Attempt, tries: Sequence[Try], reason: str, cards: Sequence[Card], now: datetime
) -> Transition:
    """What follows the last of the tries, which has failed.

    A card that its owner has chosen since is tried at once. The same card is tried again after the next of
    `RETRY_DELAYS`. When neither is possible, the attempt is given up and the tenant suspended. Each retry is decided
    anew by `decide.may_charge`, and `next_action.is_worth_trying_now` may bring it forward.
    """
    if attempt.canceling:
        return Transition(replace(attempt, next_at=now + PROCESSING_CHECKED_EVERY))
    left = remaining(cards, tries)
    if len(tries) < TRIES_MAX and untried(left, tries):
        return Transition(attempt.next_version(now, state=State.RETRY_SCHEDULED, reason=reason, next_at=now))
    if len(tries) < TRIES_MAX and left and attempt.rounds < len(RETRY_DELAYS):
        next_at = now + RETRY_DELAYS[attempt.rounds]
        return Transition(
            attempt.next_version(
                now, state=State.RETRY_SCHEDULED, reason=reason, next_at=next_at, rounds=attempt.rounds + 1
            )
        )
    return without_card(attempt, tries, reason, now)


def without_card(attempt: Attempt, tries: Sequence[Try], reason: str, now: datetime) -> Transition:
    """No card is left to charge: the attempt is given up, and the tenant suspended until its owner acts."""
    asking = replace(attempt, action_required="new_card")
    return replace(give_up(asking, tries, reason, now, state=State.DECLINED), suspend=reason)


def authentication_required(
    attempt: Attempt, tries: Sequence[Try], now: datetime, code: str = "authentication_required"
) -> Transition:
    """The card's owner has to authenticate the charge."""
    closed = close_last_try(tries, Outcome.AUTHENTICATION_REQUIRED, now, code)
    next_at = now + AUTHENTICATION_CHECKED_EVERY
    if attempt.canceling:
        return Transition(replace(attempt, next_at=now + PROCESSING_CHECKED_EVERY), closed)
    if attempt.state is State.REQUIRES_ACTION:
        return Transition(replace(attempt, next_at=next_at), closed)
    waiting = attempt.next_version(
        now,
        state=State.REQUIRES_ACTION,
        reason="authentication_required",
        action_required="authenticate",
        next_at=next_at,
    )
    return Transition(waiting, closed)
