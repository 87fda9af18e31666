"""A purchase's states, decided from Stripe's events and responses in any order. Pure.

    created ─▶ open ◀─▶ processing ─▶ succeeded
        └───────┴───────────┴───────▶ canceled

`created`: the row exists; Stripe may not have been called yet. `succeeded` and `canceled` are final, but `succeeded`
also replaces `canceled`, because then money was paid. Nothing here starts a charge: the user confirms the payment.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

#: An unconfirmed purchase is canceled at this age.
OPEN_FOR = timedelta(minutes=30)
#: Where its tenant needs a recharge, which waits for it, it is canceled so long after its user last did something.
OPEN_FOR_WHILE_RECHARGE_NEEDED = timedelta(minutes=5)
#: How long the sweeper leaves a new row to the request that inserted it, whose Stripe calls end within 20 s.
CREATION_GRACE = timedelta(seconds=60)
#: Stripe keeps idempotency keys for at least 24 h. After this a repeated call might create a second object.
KEY_TRUSTED_FOR = timedelta(hours=20)
#: How often a payment in process is retrieved, in addition to its webhooks.
RETRIEVE_EVERY = timedelta(minutes=10)
#: A paid purchase that has no entry in the ledger by then is an alert (`payments.jobs.watch_credits`).
CREDITED_WITHIN = timedelta(minutes=10)
#: How often, at most, the sweeper tries to cancel one.
RETRY_EVERY = timedelta(minutes=1)


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
    """The part of a purchase that changes.

    `observed_at` is the `created` of the newest event applied. `look_at` is when the sweeper processes the purchase.
    For a paid one without its entry, it is when the entry is overdue.
    """

    state: PurchaseState
    payment_intent: str | None
    status: str | None
    decline_code: str | None
    observed_at: datetime | None
    look_at: datetime | None


class Source(StrEnum):
    """Where an observation is from, which says how old it may be."""

    EVENT = "event"  # as old as its `created`
    RETRIEVED = "retrieved"  # current
    RESPONSE = "answer"  # of unknown age: the response to a repeated idempotency key looks the same


@dataclass(frozen=True, slots=True)
class Observation:
    """What Stripe said of the purchase's PaymentIntent. `created` is the event's, None for API responses."""

    source: Source
    payment_intent: str
    status: str
    decline_code: str | None
    created: datetime | None = None


def progress_changes_profile(before: Progress, after: Progress) -> bool:
    """Whether the change has to be published in the billing profile, which shows `created` as `open`."""
    if before.state is PurchaseState.CREATED and after.state is PurchaseState.OPEN:
        return False
    return (before.state, before.status, before.decline_code) != (after.state, after.status, after.decline_code)


def is_known_status(status: str) -> bool:
    """Whether the status changes a purchase."""
    return status in _STATE_OF_STATUS


def apply_observation(progress: Progress, seen: Observation, *, opened_at: datetime, now: datetime) -> Progress:
    """The purchase after the observation; the same object where it changes nothing.

    `look_at` is `now` where only a retrieval can show which of two observations is the newer one.
    """
    state = _STATE_OF_STATUS.get(seen.status)
    if state is None or progress.state is PurchaseState.SUCCEEDED:
        return progress
    if not _is_own(progress, seen, state):
        return progress
    observed_at = seen.created or progress.observed_at
    if state is PurchaseState.SUCCEEDED:
        return Progress(
            state=state,
            payment_intent=seen.payment_intent,
            status=seen.status,
            decline_code=None,
            observed_at=observed_at,
            look_at=now + CREDITED_WITHIN,
        )
    if progress.state is PurchaseState.CANCELED:
        return progress
    if state is PurchaseState.CANCELED:
        return Progress(
            state=state,
            payment_intent=seen.payment_intent,
            status=seen.status,
            decline_code=None,
            observed_at=observed_at,
            look_at=None,
        )
    observed = Progress(
        state=state,
        payment_intent=seen.payment_intent,
        status=seen.status,
        decline_code=seen.decline_code,
        observed_at=observed_at,
        look_at=now + RETRIEVE_EVERY
        if state is PurchaseState.PROCESSING
        else max(opened_at + OPEN_FOR, now + RETRY_EVERY),
    )
    if progress.state is PurchaseState.CREATED or seen.source is Source.RETRIEVED:
        return observed
    is_same = (progress.status, progress.decline_code) == (seen.status, seen.decline_code)
    match seen.source:
        case Source.RESPONSE:
            return progress if is_same else replace(progress, look_at=now)
        case Source.EVENT:
            assert seen.created is not None, "events have a time"
            if progress.observed_at is None or seen.created > progress.observed_at:
                return observed
            if seen.created < progress.observed_at or is_same:
                return progress
            return replace(progress, look_at=now)
        case _:
            assert_never(seen.source)


def cancel(progress: Progress) -> Progress:
    """The purchase once it is certain that Stripe does not have its PaymentIntent."""
    return replace(progress, state=PurchaseState.CANCELED, decline_code=None, look_at=None)


def _is_own(progress: Progress, seen: Observation, state: PurchaseState) -> bool:
    """Whether the observation is of the purchase's own PaymentIntent; another one may have a copy of its metadata.

    Stripe's response to our own call says which one that is, never an event. But a copy that is paid before that
    response is recorded does pay the purchase: the ledger credits an order to the first PaymentIntent that pays it.
    """
    if progress.payment_intent is None:
        return seen.source is not Source.EVENT or state is PurchaseState.SUCCEEDED
    return progress.payment_intent == seen.payment_intent


class Step(StrEnum):
    """What the sweeper does with a purchase that is due. No step starts a charge."""

    CREATE_AGAIN = "create_again"
    FIND = "find"
    CANCEL = "cancel"
    RETRIEVE = "retrieve"


def next_step(
    progress: Progress, *, opened_at: datetime, state_since: datetime, blocks_recharge: bool, now: datetime
) -> Step:
    """What the sweeper does with an unfinished purchase that is due.

    `state_since`: when it reached its state, or its user last tried to pay. `blocks_recharge`: its tenant needs a
    recharge, which waits for this purchase.
    """
    if progress.payment_intent is None:
        return Step.CREATE_AGAIN if now - opened_at < KEY_TRUSTED_FOR else Step.FIND
    is_abandoned = now - opened_at >= OPEN_FOR or (
        blocks_recharge and now - state_since >= OPEN_FOR_WHILE_RECHARGE_NEEDED
    )
    return Step.CANCEL if progress.state is PurchaseState.OPEN and is_abandoned else Step.RETRIEVE
