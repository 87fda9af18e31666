"""What changes when an attempt moves on."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from recharge.core.attempts import Attempt, State, Try

#: Longer than the longest Stripe call: whoever asked and died is not waited for longer.
LEASE = timedelta(seconds=45)
#: After a decline, the same card again. Then it is given up.
RETRY_DELAYS = (timedelta(hours=1), timedelta(hours=6), timedelta(hours=24), timedelta(hours=72))
TRIES_MAX = 12
#: A charged attempt whose credits have not come by then is looked at, and reported.
CREDIT_EXPECTED_WITHIN = timedelta(minutes=5)
#: How long a tenant has for authenticating a charge.
AUTHENTICATION_EXPECTED_WITHIN = timedelta(hours=72)
AUTHENTICATION_CHECKED_EVERY = timedelta(minutes=10)
ASKED_AGAIN_AFTER_MAX = timedelta(minutes=5)


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
    """What an answer says about our access to Stripe, for other tenants than the one that was answered."""

    #: 401, 403: nobody's charge is taken.
    OPEN = "open"
    #: A charge was executed: they are taken, and this package and currency are.
    CLOSE = "close"
    #: A charge was refused for its card: our key is taken, of the rest it says nothing.
    KEY_ACCEPTED = "key_accepted"
    #: A charge was refused as an order: our key is taken; are other tenants refused too?
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
    """An attempt as it becomes, with the tries that change, and what else follows from it.

    `stop_card` is the try whose card is not to be charged again; `suspend` stops recharge for the tenant, until another
    card is chosen than `suspend_cards`, by identity or id (None: than all that are saved now).
    """

    attempt: Attempt
    tries: tuple[Try, ...] = ()
    stop_card: Try | None = None
    suspend: str | None = None
    suspend_cards: frozenset[str] | None = None
    breaker: BreakerSignal | None = None
    alert: Alert | None = None
    other_payment: OtherPayment | None = None


def end_as_canceled(attempt: Attempt, now: datetime, reason: str | None = None) -> Attempt:
    """Its PaymentIntent is cancelled, or was never made: the reservation is free again."""
    return attempt.next_version(
        now,
        state=State.CANCELED,
        reason=reason or attempt.reason,
        reserved_month=None,
        canceling=False,
        next_at=now,
        not_found_at=None,
    )


def next_call_at(calls: int, now: datetime) -> datetime:
    """When to ask the same thing again: 2, 4, 8 … seconds after, at most five minutes."""
    return now + min(timedelta(seconds=2 ** min(calls, 9)), ASKED_AGAIN_AFTER_MAX)
