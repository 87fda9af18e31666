"""What the executor does next for an attempt that is due, and when an attempt that waits need not wait any longer."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from recharge.core.attempts import ENDED, Attempt, State, Try
from recharge.core.transitions import (
    AUTHENTICATION_CHECKED_EVERY,
    AUTHENTICATION_EXPECTED_WITHIN,
    Transition,
    give_up,
)
from shared.events import BillingProfile

#: States in which an attempt waits for a time, or for its tenant.
WAITING = frozenset([State.RETRY_SCHEDULED, State.REQUIRES_ACTION])
#: Stripe keeps a key for at least 24 h. Within 20 h the same call is certainly taken for the same request.
KEY_REPEATED_FOR = timedelta(hours=20)


class NextAction(StrEnum):
    """What to do about an attempt that is due."""

    BEGIN = "begin"
    REPEAT_KEY = "repeat_key"
    RETRIEVE = "retrieve"
    LIST = "list"
    CANCEL = "cancel"
    RECONSIDER = "reconsider"
    NOTHING = "nothing"


def next_action(attempt: Attempt, tries: Sequence[Try], now: datetime) -> NextAction:
    """The next action for a due attempt.

    A try in doubt is always reconciled first: by repeating its key, or, where the attempt is given up and no call may
    charge any more, by listing the customer's PaymentIntents.
    """
    last = tries[-1] if tries else None
    if attempt.state in ENDED:
        return NextAction.NOTHING
    if attempt.state is State.CHARGED:
        return NextAction.RETRIEVE
    key_in_doubt = last if last is not None and last.outcome is None and last.in_doubt else None
    if key_in_doubt and not attempt.canceling and now < key_in_doubt.first_called_at + KEY_REPEATED_FOR:
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


def is_worth_trying_now(
    attempt: Attempt, tries: Sequence[Try], profile: BillingProfile, card_proven_at: datetime | None
) -> bool:
    """Whether an attempt that waits should be tried at once.

    It should if its owner has chosen another card than the one tried last, or has consented since to the same card, or
    if that card has since paid with its owner present or was updated by its network.
    """
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


def after_reconsideration(attempt: Attempt, tries: Sequence[Try], unwanted: str | None, now: datetime) -> Transition:
    """A charge that waits for authentication: given up when it is `unwanted` (the reason), or has waited too long."""
    if unwanted is not None:
        return give_up(attempt, tries, unwanted, now)
    if now >= attempt.changed_at + AUTHENTICATION_EXPECTED_WITHIN:
        return replace(give_up(attempt, tries, "authentication_not_given", now), suspend="authentication_not_given")
    return Transition(replace(attempt, next_at=now + AUTHENTICATION_CHECKED_EVERY))
