"""A transition of an attempt: its next state, its changed tries, and what else follows. Every rule returns one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from recharge.core.attempts import Attempt, Outcome, State, Try, has_made_nothing

#: Longer than the longest Stripe call. An executor that died is not waited for longer.
LEASE = timedelta(seconds=45)
#: A charged attempt without credits after this time is checked and reported.
CREDIT_EXPECTED_WITHIN = timedelta(minutes=5)
#: How long a tenant has for authenticating a charge.
AUTHENTICATION_EXPECTED_WITHIN = timedelta(hours=72)
AUTHENTICATION_CHECKED_EVERY = timedelta(minutes=10)
PROCESSING_CHECKED_EVERY = timedelta(minutes=1)
#: Stripe keeps a key for at least 24 h. After that, a request under an old key cannot be taken for the same request.
KEY_FORGOTTEN_AFTER = timedelta(hours=24)
CALL_DELAY_MAX = timedelta(minutes=5)


class Alert(StrEnum):
    """What an operator has to look at. Logged as an error and counted."""

    SECOND_PAYMENT_INTENT = "second_payment_intent"
    SUCCEEDED_AFTER_END = "succeeded_after_end"
    CREDITED_AFTER_END = "credited_after_end"
    RECEIPT_UNAPPLIED = "receipt_unapplied"
    CHARGED_NOT_CREDITED = "charged_not_credited"
    CANCELED_AFTER_CHARGE = "canceled_after_charge"
    PAYMENT_INTENT_GONE = "payment_intent_gone"
    UNEXPECTED_STATUS = "unexpected_status"
    CHARGE_REFUSED = "charge_refused"
    UNPROVEN_PAYMENT_INTENT = "unproven_payment_intent"


class BreakerSignal(StrEnum):
    """What Stripe's answer to one tenant's charge means for the charges of others."""

    #: 401 or 403: Stripe takes no charge of ours.
    OPEN = "open"
    #: A charge was executed: Stripe takes charges, and takes this package and currency.
    CLOSE = "close"
    #: A charge was refused for its card. Stripe accepts our API key; about the rest this says nothing.
    KEY_ACCEPTED = "key_accepted"
    #: An order was refused. Stripe accepts our API key, but may refuse other tenants' orders too.
    ORDER_REFUSED = "order_refused"


@dataclass(frozen=True, slots=True)
class OtherPayment:
    """A PaymentIntent that was paid in an attempt's name and is not known to be its own. `is_credited`: the ledger has
    posted its credits."""

    payment_intent: str
    amount_minor: int
    currency: str
    is_credited: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """The attempt after a transition, the tries that change, and what else follows.

    `stop_card_of` is the try whose card must not be charged again. `suspend` is a reason: recharge stops for the tenant
    until its owner chooses a card that is not in `suspend_cards` (identities or ids; None: all that are saved now).
    """

    attempt: Attempt
    tries: tuple[Try, ...] = ()
    stop_card_of: Try | None = None
    suspend: str | None = None
    suspend_cards: frozenset[str] | None = None
    breaker: BreakerSignal | None = None
    alert: Alert | None = None
    other_payment: OtherPayment | None = None


def end_as_canceled(attempt: Attempt, now: datetime, reason: str | None = None) -> Attempt:
    """The attempt once its PaymentIntent is cancelled or was never made. Its reservation in the cap is released."""
    return attempt.next_version(
        now,
        state=State.CANCELED,
        reason=reason or attempt.reason,
        reserved_month=None,
        canceling=False,
        next_at=now,
        not_found_at=None,
    )


def give_up(
    attempt: Attempt, tries: Sequence[Try], reason: str, now: datetime, *, state: State | None = None
) -> Transition:
    """Ends the attempt if it has made nothing. Else its PaymentIntent has to be cancelled first."""
    if attempt.payment_intent is None and has_made_nothing(tries):
        closed = tuple(replace(one, outcome=Outcome.NEVER_MADE, answered_at=now) for one in tries if not one.outcome)
        return Transition(end_as_canceled(attempt, now, reason), closed)
    return Transition(
        attempt.next_version(now, state=state or attempt.state, reason=reason, canceling=True, next_at=now)
    )


def close_last_try(
    tries: Sequence[Try], outcome: Outcome, now: datetime, code: str | None = None, *, may_repeat: bool = True
) -> tuple[Try, ...]:
    """The last try with its outcome, or nothing if it has a definite outcome already."""
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


def with_changed(tries: Sequence[Try], changed: Sequence[Try]) -> tuple[Try, ...]:
    """The tries of an attempt, the last of them as changed."""
    return (*tries[:-1], *changed) if changed else tuple(tries)


def next_call_at(calls: int, now: datetime) -> datetime:
    """When to call Stripe again: after 2, 4, 8 … seconds, at most five minutes."""
    return now + min(timedelta(seconds=2 ** min(calls, 9)), CALL_DELAY_MAX)
