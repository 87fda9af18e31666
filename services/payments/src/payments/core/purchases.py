"""A purchase's life, decided from what Stripe says in whatever order it says it. Pure.

    created ─▶ open ◀─▶ processing ─▶ succeeded
        └───────┴───────────┴───────▶ canceled

`created`: the row exists, Stripe has perhaps not been asked yet. `succeeded` and `canceled` absorb; `succeeded` wins
even over `canceled`, because then money has come in. Nothing here starts a charge: that takes the buyer's confirmation.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

#: An unconfirmed purchase is cancelled at this age.
OPEN_FOR = timedelta(minutes=30)
#: At this age, since its payer last did something, where its tenant needs a recharge: recharge waits for it.
OPEN_FOR_WHILE_NEEDED = timedelta(minutes=5)
#: How long the request that made the row has for asking Stripe itself; its Stripe time-out is 20 s.
CREATION_GRACE = timedelta(seconds=60)
#: Stripe keeps idempotency keys for at least 24 h; after this the key no longer proves that nothing is made twice.
KEY_TRUSTED_FOR = timedelta(hours=20)
#: How often a payment in process is looked at, beside its webhooks.
FOLLOW_EVERY = timedelta(minutes=10)
#: A paid purchase that the ledger has not told of by then is an alert (`payments.jobs.watch_credits`).
CREDITED_WITHIN = timedelta(minutes=10)
#: How often, at most, one that should be cancelled is tried again.
LOOK_EVERY = timedelta(minutes=1)


class PurchaseState(StrEnum):
    CREATED = "created"
    OPEN = "open"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"


#: States whose PaymentIntent may still succeed.
UNFINISHED = frozenset({PurchaseState.CREATED, PurchaseState.OPEN, PurchaseState.PROCESSING})

#: Stripe's statuses (https://docs.stripe.com/payments/paymentintents/lifecycle). Unknown ones change nothing.
_STATE_OF_STATUS = {
    "requires_payment_method": PurchaseState.OPEN,
    "requires_confirmation": PurchaseState.OPEN,
    "requires_action": PurchaseState.OPEN,
    "processing": PurchaseState.PROCESSING,
    "succeeded": PurchaseState.SUCCEEDED,
    "canceled": PurchaseState.CANCELED,
}


@dataclass(frozen=True, slots=True)
class Progress:
    """The part of a purchase that changes. `observed_at` is the `created` of the newest event applied. `look_at`: when
    the sweeper goes on with it; of a paid one, until its entry has come: when that is overdue."""

    state: PurchaseState
    payment_intent: str | None
    status: str | None
    decline_code: str | None
    observed_at: datetime | None
    look_at: datetime | None


class Source(StrEnum):
    """How old a word of Stripe's may be."""

    EVENT = "event"  # as old as its `created`
    RETRIEVED = "retrieved"  # current
    ANSWER = "answer"  # of unknown age: an idempotent replay looks the same


@dataclass(frozen=True, slots=True)
class Observation:
    """What Stripe said of the purchase's PaymentIntent. `created` is the event's, None for API answers."""

    source: Source
    payment_intent: str
    status: str
    decline_code: str | None
    created: datetime | None = None


def is_same_for_recharge(before: Progress, after: Progress) -> bool:
    """Whether nothing changed that recharge is told: `created` is told as `open`."""
    if before.state is PurchaseState.CREATED and after.state is PurchaseState.OPEN:
        return True
    return (before.state, before.status, before.decline_code) == (after.state, after.status, after.decline_code)


def is_known_status(status: str) -> bool:
    """Whether the status is one that we act on."""
    return status in _STATE_OF_STATUS


def observe(progress: Progress, seen: Observation, *, opened_at: datetime, now: datetime) -> Progress:
    """The purchase after the observation; the same object where it changes nothing.

    `look_at` comes back as `now` where only a retrieval can tell which of two words is the newer one.
    """
    state = _STATE_OF_STATUS.get(seen.status)
    if state is None or progress.state is PurchaseState.SUCCEEDED:
        return progress
    if not _is_of(progress, seen, state):
        return progress
    if state is PurchaseState.SUCCEEDED:
        observed_at = seen.created or progress.observed_at
        return Progress(state, seen.payment_intent, seen.status, None, observed_at, now + CREDITED_WITHIN)
    if progress.state is PurchaseState.CANCELED:
        return progress
    if state is PurchaseState.CANCELED:
        return Progress(state, seen.payment_intent, seen.status, None, seen.created or progress.observed_at, None)
    followed = Progress(
        state=state,
        payment_intent=seen.payment_intent,
        status=seen.status,
        decline_code=seen.decline_code,
        observed_at=seen.created or progress.observed_at,
        look_at=now + FOLLOW_EVERY
        if state is PurchaseState.PROCESSING
        else max(opened_at + OPEN_FOR, now + LOOK_EVERY),
    )
    if progress.state is PurchaseState.CREATED or seen.source is Source.RETRIEVED:
        return followed
    same = (progress.status, progress.decline_code) == (seen.status, seen.decline_code)
    match seen.source:
        case Source.ANSWER:
            return progress if same else replace(progress, look_at=now)
        case Source.EVENT:
            assert seen.created is not None, "events have a time"
            if progress.observed_at is None or seen.created > progress.observed_at:
                return followed
            if seen.created < progress.observed_at or same:
                return progress
            return replace(progress, look_at=now)
        case _:
            assert_never(seen.source)


def cancel(progress: Progress) -> Progress:
    """The purchase once it is certain that its PaymentIntent will not be paid: Stripe does not have it."""
    return replace(progress, state=PurchaseState.CANCELED, decline_code=None, look_at=None)


def _is_of(progress: Progress, seen: Observation, state: PurchaseState) -> bool:
    """Whether it is of the purchase's PaymentIntent; another can carry a copy of its metadata.

    Which one that is, Stripe's answer to our own call says, never an event. Only where a copy was paid before that, it
    has paid the purchase: the ledger credits an order to the first PaymentIntent that paid for it.
    """
    if progress.payment_intent is None:
        return seen.source is not Source.EVENT or state is PurchaseState.SUCCEEDED
    return progress.payment_intent == seen.payment_intent


class Step(StrEnum):
    """What the sweeper does with a purchase that is due. None of them starts a charge."""

    CREATE_AGAIN = "create_again"
    FIND = "find"
    CANCEL = "cancel"
    RETRIEVE = "retrieve"


def next_step(
    progress: Progress, *, opened_at: datetime, state_since: datetime, is_in_the_way: bool, now: datetime
) -> Step:
    """What brings an unfinished purchase that is due to its end.

    `state_since`: when it came to its state, or its payer last tried to pay. `is_in_the_way`: its tenant needs a
    recharge, which waits for it.
    """
    if progress.payment_intent is None:
        return Step.CREATE_AGAIN if now - opened_at < KEY_TRUSTED_FOR else Step.FIND
    is_left = now - opened_at >= OPEN_FOR or (is_in_the_way and now - state_since >= OPEN_FOR_WHILE_NEEDED)
    return Step.CANCEL if progress.state is PurchaseState.OPEN and is_left else Step.RETRIEVE
