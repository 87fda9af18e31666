"""How an attempt that is in doubt, waits or is to be cancelled goes on. Pure: says what to ask, and what it means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from recharge.core.attempts import ENDED, Attempt, Outcome, State, Try, month_charged
from recharge.core.payment_intent import KEY_FORGOTTEN_AFTER, give_up, next_card
from recharge.core.transitions import (
    AUTHENTICATION_CHECKED_EVERY,
    AUTHENTICATION_EXPECTED_WITHIN,
    Alert,
    Transition,
    end_as_canceled,
)
from shared.events import BillingProfile, Card

#: States in which an attempt waits for time to pass, or for its tenant.
WAITING = frozenset([State.RETRY_SCHEDULED, State.REQUIRES_ACTION])
#: Stripe keeps a key for 24 h at least: within 20 h the same call again is certainly the same call.
KEY_REPEATED_FOR = timedelta(hours=20)
LISTED_AGAIN_AFTER = timedelta(minutes=10)
LISTED_AGAIN_AFTER_UNPROVEN = timedelta(hours=1)
#: How far Stripe's clock may be behind ours when we list what was created since a call.
CLOCK_SKEW = timedelta(seconds=300)


class NextAction(StrEnum):
    """What to do about an attempt that is due."""

    BEGIN = "begin"
    REPEAT_KEY = "repeat_key"
    RETRIEVE = "retrieve"
    LIST = "list"
    CANCEL = "cancel"
    RECONSIDER = "reconsider"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class ListWindow:
    """Which PaymentIntents of the customer to look through."""

    customer: str
    created_since: datetime


def next_action(attempt: Attempt, tries: Sequence[Try], now: datetime) -> NextAction:
    """What a due attempt needs. A try in doubt is always found out before anything else happens to its attempt: by its
    key, and where the attempt is given up, without it, since no call may charge any more."""
    last = tries[-1] if tries else None
    if attempt.state in ENDED:
        return NextAction.NOTHING
    if attempt.state is State.CHARGED:
        return NextAction.RETRIEVE
    is_key_open = last is not None and last.outcome is None and last.in_doubt
    if is_key_open and not attempt.canceling and now < last.first_called_at + KEY_REPEATED_FOR:
        return NextAction.REPEAT_KEY
    if attempt.payment_intent is None and any(one.in_doubt for one in tries):
        return NextAction.LIST
    if attempt.canceling:
        return NextAction.LIST if attempt.payment_intent is None else NextAction.CANCEL
    if attempt.state in (State.UNKNOWN, State.CHARGING):
        return NextAction.LIST if attempt.payment_intent is None else NextAction.RETRIEVE
    if attempt.state is State.DECLINED:
        return NextAction.CANCEL
    if attempt.state is State.REQUIRES_ACTION:
        return NextAction.RECONSIDER
    return NextAction.BEGIN


def list_window(attempt: Attempt, tries: Sequence[Try]) -> ListWindow:
    """Where its PaymentIntent must be, if it was made."""
    first = min((one.first_called_at for one in tries), default=attempt.created_at)
    return ListWindow(attempt.stripe_customer, first - CLOCK_SKEW)


def after_empty_list(
    attempt: Attempt, tries: Sequence[Try], asked_at: datetime, cards: Sequence[Card], now: datetime
) -> Transition:
    """No PaymentIntent of this attempt was listed. Proven only by a second list, 10 minutes later, and once the key was
    answered for good or is forgotten. What counts is when a list was asked for, not when its answer is written down."""
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
        told = replace(attempt, not_found_at=None)
        transition = next_card(told, (*tries[: -len(closed)], *closed), last.code or "declined", cards, now)
        return replace(transition, tries=closed)
    changed = attempt.next_version(
        now, state=State.RETRY_SCHEDULED, reason="never_made", next_at=now, not_found_at=None
    )
    return Transition(changed, closed)


def after_unproven_match(attempt: Attempt, now: datetime) -> Transition:
    """What was listed names the attempt and is not signed by us: whether it was paid by it, a person is to say."""
    later = now + LISTED_AGAIN_AFTER_UNPROVEN
    return Transition(replace(attempt, not_found_at=None, next_at=later), alert=Alert.UNPROVEN_PAYMENT_INTENT)


def after_missing_payment_intent(attempt: Attempt, now: datetime) -> Transition:
    """Stripe says that it knows no such PaymentIntent although it has told us its id: for a person to look at."""
    return Transition(replace(attempt, next_at=now + timedelta(hours=1)), alert=Alert.PAYMENT_INTENT_GONE)


def is_worth_trying_now(
    attempt: Attempt, tries: Sequence[Try], profile: BillingProfile, card_proven_at: datetime | None
) -> bool:
    """Whether something has happened for which an attempt that waits is not to wait any longer: its owner has chosen
    another card than the one tried last, has consented since to the same card being tried again, or that card has
    paid since with its owner present, or was updated by its network."""
    settings = profile.auto_recharge
    if settings is None or attempt.canceling or attempt.state not in WAITING or not tries:
        return False
    if is_of_another_card(tries, profile):
        return True
    answered_at = tries[-1].answered_at or attempt.changed_at
    consented_at = settings.consent.given_at if settings.consent else None
    evidence = (moment for moment in (consented_at, card_proven_at) if moment is not None)
    return attempt.state is State.RETRY_SCHEDULED and any(moment > answered_at for moment in evidence)


def is_of_another_card(tries: Sequence[Try], profile: BillingProfile) -> bool:
    """Whether its owner has chosen another card since the last try."""
    chosen = profile.auto_recharge.payment_method if profile.auto_recharge else None
    return chosen is not None and bool(tries) and tries[-1].payment_method != chosen


def after_reconsideration(attempt: Attempt, tries: Sequence[Try], refusal: str | None, now: datetime) -> Transition:
    """A charge that waits for its tenant: given up when it is no longer wanted, or has waited long enough."""
    if refusal is not None:
        return give_up(attempt, tries, refusal, now)
    if now >= attempt.changed_at + AUTHENTICATION_EXPECTED_WITHIN:
        return replace(give_up(attempt, tries, "authentication_not_given", now), suspend="authentication_not_given")
    return Transition(replace(attempt, next_at=now + AUTHENTICATION_CHECKED_EVERY))


def after_credit(attempt: Attempt, now: datetime) -> Transition:
    """The ledger has posted the credits: the only good end."""
    if attempt.state is State.CREDITED:
        return Transition(attempt)
    is_known_charged = attempt.state in (State.CHARGED, State.CANCELED) and attempt.reserved_month is not None
    changed = attempt.next_version(
        now,
        state=State.CREDITED,
        reason=None,
        action_required=None,
        canceling=False,
        receipt_unapplied=False,
        reserved_month=attempt.reserved_month if is_known_charged else month_charged(attempt, now),
        next_at=now,
    )
    return Transition(changed, alert=Alert.CREDITED_AFTER_END if attempt.state is State.CANCELED else None)


def after_unapplied_receipt(attempt: Attempt, now: datetime) -> Transition:
    """The ledger has the money and could not believe what it was for: it waits for a person to resolve that."""
    if attempt.state is State.CREDITED or attempt.receipt_unapplied:
        return Transition(attempt)
    changed = attempt.next_version(now, receipt_unapplied=True, reason="receipt_unapplied")
    return Transition(changed, alert=Alert.RECEIPT_UNAPPLIED)
