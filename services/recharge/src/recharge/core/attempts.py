"""An attempt to charge a saved card, and its tries.

    reserved ─▶ charging ─▶ charged ─▶ credited
                   ├─▶ requires_action ─▶ charged | canceled
                   ├─▶ declined | retry_scheduled ─▶ charging … ─▶ canceled
                   └─▶ unknown ─▶ reconciled with Stripe, then any of the others

`declined` means that the attempt was given up and its PaymentIntent is being cancelled. An attempt ends as `credited`
or as `canceled` only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Literal


class State(StrEnum):
    RESERVED = "reserved"
    CHARGING = "charging"
    CHARGED = "charged"
    CREDITED = "credited"
    REQUIRES_ACTION = "requires_action"
    DECLINED = "declined"
    RETRY_SCHEDULED = "retry_scheduled"
    UNKNOWN = "unknown"
    CANCELED = "canceled"


ENDED = frozenset([State.CREDITED, State.CANCELED])


class Outcome(StrEnum):
    """The final result of a try, and so of its idempotency key."""

    SUCCEEDED = "succeeded"
    PROCESSING = "processing"
    DECLINED = "declined"
    AUTHENTICATION_REQUIRED = "authentication_required"
    #: The PaymentIntent exists, and this try has not charged it.
    NOT_CONFIRMED = "not_confirmed"
    #: Stripe refused the card or the customer before making anything.
    CARD_UNUSABLE = "card_unusable"
    #: Stripe's answer is final, but what it made has to be read from Stripe.
    UNCLEAR = "unclear"
    #: Proven to have made nothing.
    NEVER_MADE = "never_made"
    CANCELED = "canceled"


#: After these the key has made no PaymentIntent, so a new one may be created.
NOTHING_MADE = frozenset([Outcome.CARD_UNUSABLE, Outcome.NEVER_MADE])


@dataclass(frozen=True, slots=True)
class Try:
    """One idempotency key, committed before the first call under it.

    `in_doubt`: a call under the key may have been executed without our knowing. `first_called_at`: the first call that
    may have been executed. `may_repeat`: whether the card may be charged again within this attempt.
    """

    n: int
    payment_method: str
    fingerprint: str | None
    idempotency_key: str
    creates: bool
    first_called_at: datetime
    calls: int
    in_doubt: bool
    server_errors: int = 0
    outcome: Outcome | None = None
    code: str | None = None
    may_repeat: bool = True
    answered_at: datetime | None = None

    @property
    def card(self) -> str:
        """The identity of the card, as `cards.identity` has it."""
        return self.fingerprint or self.payment_method


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The progress of an attempt when Stripe was called: the answer counts only while the attempt is still there.

    No two charging calls have the same checkpoint, since each is a new try or increments its try's `calls`. So a late
    answer to an older call is not taken for the answer to the call under way.
    """

    n: int
    calls: int
    state: State

    @staticmethod
    def of(attempt: "Attempt", tries: Sequence[Try]) -> "Checkpoint":
        """The attempt's progress now."""
        return Checkpoint(attempt.n, tries[-1].calls if tries else 0, attempt.state)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `attempt`. The amount never changes.

    `version` counts the published changes. `next_at` is when the executor has to act on it next, and the end of the
    lease while an executor does. `n` is the number of the last try, `rounds` how many of the retry delays are used up.
    """

    tenant_id: str
    attempt: str
    version: int
    state: State
    trigger: Literal["automatic", "manual"]
    request: str | None
    amount_minor: int
    currency: str
    credits: int
    package: str
    expires_in_days: int | None
    limited_by_cap: bool
    stripe_customer: str
    profile_version: int
    balance_available: int | None
    created_at: datetime
    changed_at: datetime
    next_at: datetime
    reserved_month: date | None = None
    payment_intent: str | None = None
    n: int = 0
    rounds: int = 0
    reason: str | None = None
    action_required: Literal["authenticate", "new_card"] | None = None
    canceling: bool = False
    receipt_unapplied: bool = False
    not_found_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    def next_version(self, now: datetime, **changes: Any) -> "Attempt":
        """The attempt with these changes, to be published."""
        return replace(self, version=self.version + 1, changed_at=now, **changes)


def has_made_nothing(tries: Sequence[Try]) -> bool:
    """Whether it is proven that no call has made a PaymentIntent."""
    return all(one.outcome in NOTHING_MADE or (one.outcome is None and not one.in_doubt) for one in tries)


def month_of(moment: datetime) -> date:
    """The calendar month, UTC, as its first day."""
    return moment.date().replace(day=1)


def month_charged(attempt: Attempt, now: datetime) -> date:
    """The month that a charge counts in when we learn of it now: the latest in which it may have been made.

    A repeated key or an authenticated card may charge in a later month than the one the attempt has reserved in. No
    other attempt could begin meanwhile, so counting the charge in the later month cannot exceed the earlier month's
    cap.
    """
    return max(attempt.reserved_month or month_of(now), month_of(now))
