"""An attempt to charge a saved card, and its tries: the words that the other rooms use.

    reserved ─▶ charging ─▶ charged ─▶ credited
                   ├─▶ requires_action ─▶ charged | canceled
                   ├─▶ declined | retry_scheduled ─▶ charging … ─▶ canceled
                   └─▶ unknown ─▶ found out, never guessed

`declined` means: given up, its PaymentIntent is being cancelled. An attempt ends as `credited` or as `canceled` only.
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
    """What an idempotency key was answered for good."""

    SUCCEEDED = "succeeded"
    PROCESSING = "processing"
    DECLINED = "declined"
    AUTHENTICATION_REQUIRED = "authentication_required"
    #: The PaymentIntent is there, and this try has not charged it.
    NOT_CONFIRMED = "not_confirmed"
    #: Stripe refused the card or the customer before making anything.
    CARD_UNUSABLE = "card_unusable"
    #: Answered for good, and what it did has to be looked up.
    UNCLEAR = "unclear"
    #: Proven to have made nothing.
    NEVER_MADE = "never_made"
    CANCELED = "canceled"


#: After these a PaymentIntent may be created anew: the key has made none.
NOTHING_MADE = frozenset([Outcome.CARD_UNUSABLE, Outcome.NEVER_MADE])


@dataclass(frozen=True, slots=True)
class Try:
    """One idempotency key: committed before the first call under it. `in_doubt`: some call under it may have been
    executed without our knowing. `first_called_at`: the first call that may have been executed."""

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
    """Where an attempt stood when Stripe was asked. No two calls that charge have the same one: each is a new try or
    one more of its try's `calls`, so the answer to an older one is told apart from the answer to the one under way."""

    n: int
    calls: int
    state: State

    @staticmethod
    def of(attempt: "Attempt", tries: Sequence[Try]) -> "Checkpoint":
        """Where it stands now."""
        return Checkpoint(attempt.n, tries[-1].calls if tries else 0, attempt.state)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `attempt`. The amount never changes. `version` counts what is announced, `next_at` is when somebody has
    to look at it again (the lease, while somebody does)."""

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
        """A newer version of it, to be announced."""
        return replace(self, version=self.version + 1, changed_at=now, **changes)


def month_of(moment: datetime) -> date:
    """The calendar month, UTC, as its first day."""
    return moment.date().replace(day=1)


def month_charged(attempt: Attempt, now: datetime) -> date:
    """The month that a charge of which we learn now counts in: the latest in which it may have been made.

    A key repeated, or a card authenticated, may charge in a later month than the attempt has reserved in. Nothing else
    could begin meanwhile, so what counts in the later month takes no room from an earlier one.
    """
    return max(attempt.reserved_month or month_of(now), month_of(now))
