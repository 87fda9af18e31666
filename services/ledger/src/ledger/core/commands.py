"""Commands: what the ledger is asked to post. Outcomes: what became of each. A batch is a list of commands."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Literal, NamedTuple

from ledger.core.accounts import Kind


@dataclass(frozen=True, slots=True)
class Credit:
    """A PaymentIntent of ours succeeded. Its signature proves what it buys, or an operator has decided it.

    An order, `purchase` or `attempt`, is credited to one PaymentIntent only. Another one with a copy of the order
    becomes an unapplied receipt. If an operator credits that, the order stays with the first PaymentIntent.
    """

    tenant: str
    payment_intent: str
    kind: Literal[Kind.PURCHASE, Kind.RECHARGE]
    credits: int
    amount_minor: int
    currency: str
    expires_in_days: int | None = None
    purchase: str | None = None
    attempt: str | None = None
    by_operator: bool = False

    @property
    def orders(self) -> "Sequence[OrderKey]":
        """The order that it credits; empty if it names none."""
        named = ("purchase", self.purchase), ("attempt", self.attempt)
        return [OrderKey(self.tenant, kind, name) for kind, name in named if name is not None]


class OrderKey(NamedTuple):
    """An order of a tenant: `kind` is "purchase" or "attempt"."""

    tenant: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class UnappliedReceipt:
    """A PaymentIntent with our marker succeeded, but its metadata failed the check, or its order is credited already.
    What it says, the tenant too, is an unproven claim."""

    claimed_tenant: str
    payment_intent: str
    amount_minor: int
    currency: str
    reason: str
    purchase: str | None = None
    attempt: str | None = None


@dataclass(frozen=True, slots=True)
class RefundSeen:
    """A refund as Stripe shows it. It counts, unless its status is `failed` or `canceled`, which are final."""

    payment_intent: str
    refund: str
    amount_minor: int
    currency: str
    status: str


@dataclass(frozen=True, slots=True)
class DisputeSeen:
    """A dispute moved funds out of the account, or back."""

    payment_intent: str
    dispute: str
    amount_minor: int
    currency: str
    moved: Literal["withdrawn", "reinstated"]


class Usage(NamedTuple):
    """A usage record: credits that have been used, recorded even if the tenant then owes credits."""

    tenant: str
    reference: str
    credits: int
    purpose: str
    occurred_at: datetime | None


@dataclass(frozen=True, slots=True)
class Debit:
    """A request to spend credits. Refused unless they are available or, with `may_overdraw`, the overdraft limit is
    kept."""

    tenant: str
    reference: str
    credits: int
    purpose: str
    may_overdraw: bool = False


@dataclass(frozen=True, slots=True)
class AllOrNothing:
    """Debits that are posted together or not at all."""

    debits: tuple[Debit, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """A request to reserve credits until `expires_at`; never overdraws."""

    tenant: str
    reference: str
    credits: int
    purpose: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Capture:
    """Spends `credits` of a hold, releases the rest, and ends it. What goes beyond the hold is a debit."""

    tenant: str
    hold: str
    credits: int
    may_overdraw: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Ends a hold without spending any of it."""

    tenant: str
    hold: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """An operator gives credits."""

    tenant: str
    reference: str
    credits: int
    priority: int
    expires_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Adjustment:
    """An operator corrects a balance by signed `credits`. Like usage, it is recorded even where it leaves a debt."""

    tenant: str
    reference: str
    credits: int
    reason: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Ends the tenant's grants and holds whose time is over."""

    tenant: str


Command = (
    Credit | UnappliedReceipt | RefundSeen | DisputeSeen | Usage | Debit | AllOrNothing | Hold | Capture | Release
    | Promotion | Adjustment | Expire
)  # fmt: skip

#: What dead-letter reasons and logs call each command. Operators search for these: a renamed class keeps its name here.
COMMAND_NAMES: Mapping[type[Command], str] = {
    Credit: "Credit",
    UnappliedReceipt: "Unapplied",
    RefundSeen: "RefundSeen",
    DisputeSeen: "DisputeSeen",
    Usage: "Usage",
    Debit: "Debit",
    AllOrNothing: "AllOrNothing",
    Hold: "Hold",
    Capture: "Capture",
    Release: "Release",
    Promotion: "Promotion",
    Adjustment: "Adjustment",
    Expire: "Expire",
}


class Posted(NamedTuple):
    """The transfer under the command's reference. `repeated`: it was posted before, and nothing was changed now."""

    version: int
    credits: int
    available_after: int
    posted_at: datetime
    repeated: bool = False
    over_overdraft_limit: bool = False


class Recorded(NamedTuple):
    """The usage record is in the books. Nobody waits for more of a result. `repeated` as in `Posted`."""

    repeated: bool = False
    over_overdraft_limit: bool = False


class HoldStatus(StrEnum):
    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Held:
    """A hold as this command leaves it. `available_after` is what was available right after the hold was made or
    ended."""

    reference: str
    credits: int
    status: HoldStatus
    captured: int
    expires_at: datetime
    available_after: int
    version: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class UnknownHold:
    """The tenant has no such hold."""


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """The hold has ended already, in another way than the command asks for."""

    status: HoldStatus
    captured: int


@dataclass(frozen=True, slots=True)
class DebitOutcomes:
    """One outcome for each debit of an `AllOrNothing`. Unless all are `Posted`, none is: those that could have been
    are `Withheld`."""

    outcomes: "tuple[Outcome, ...]"


@dataclass(frozen=True, slots=True)
class Withheld:
    """The debit could have been posted, but others of its `AllOrNothing` could not."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The reference has been used with another input."""

    reference: str


@dataclass(frozen=True, slots=True)
class Insufficient:
    """The credits are not available."""

    available: int


@dataclass(frozen=True, slots=True)
class UnknownTenant:
    """The tenant has never had credits and was not announced."""


@dataclass(frozen=True, slots=True)
class BalanceOutOfRange:
    """The balance would leave the range of `CREDITS_MAX`."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A reversal that came before its credit: kept, and applied together with it."""


@dataclass(frozen=True, slots=True)
class CurrencyDiffers:
    """A reversal in another currency than its credit: kept as refused; no credits moved."""

    credited: str


@dataclass(frozen=True, slots=True)
class NothingPosted:
    """No credits moved: known already, nothing left to reverse, an unapplied receipt, or nothing due."""


Outcome = (
    Posted | Recorded | Held | DebitOutcomes | Withheld | Conflict | Insufficient | UnknownTenant | UnknownHold
    | HoldEnded | BalanceOutOfRange | Waiting | CurrencyDiffers | NothingPosted
)  # fmt: skip

#: What logs call each outcome; in lower case, the label of `ledger_stripe_events_total`. As with `COMMAND_NAMES`, a
#: renamed class keeps its name here.
OUTCOME_NAMES: Mapping[type[Outcome], str] = {
    Posted: "Posted",
    Recorded: "Recorded",
    Held: "Held",
    DebitOutcomes: "Several",
    Withheld: "Withheld",
    Conflict: "Conflict",
    Insufficient: "Insufficient",
    UnknownTenant: "UnknownTenant",
    UnknownHold: "UnknownHold",
    HoldEnded: "HoldEnded",
    BalanceOutOfRange: "BeyondLimit",
    Waiting: "Waiting",
    CurrencyDiffers: "CurrencyDiffers",
    NothingPosted: "Noted",
}


@lru_cache(maxsize=10_000)
def input_hash(kind: Kind, credits: int, amount_minor: int | None = None, currency: str | None = None) -> bytes:
    """16 bytes that identify the input under a reference: kind, credits, amount and currency."""
    text = f"{kind}|{credits}|{amount_minor}|{currency}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
