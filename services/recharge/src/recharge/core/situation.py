"""The situation of a tenant, the decision about it, and the reasons not to charge."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from recharge.core.breakers import OpenBreaker
from shared.events import BillingProfile, CreditPackage


class Reason(StrEnum):
    """Why a card is not charged."""

    FROZEN = "frozen"
    DISABLED = "disabled"
    NO_CONSENT = "no_consent"
    ATTEMPT_OPEN = "attempt_open"
    BALANCE_UNKNOWN = "balance_unknown"
    BALANCE_OLDER_THAN_CREDIT = "balance_older_than_credit"
    ABOVE_THRESHOLD = "above_threshold"
    NEED_ALREADY_SERVED = "need_already_served"
    REQUEST_EXPIRED = "request_expired"
    CUSTOMER_CHANGED = "customer_changed"
    SUSPENDED = "suspended"
    DISPUTE_OPEN = "dispute_open"
    RECEIVABLE_OPEN = "receivable_open"
    OPEN_PURCHASE = "open_purchase"
    PURCHASE_LEFT_OPEN = "purchase_left_open"
    NO_CARD = "no_card"
    CARD_STOPPED = "card_stopped"
    CURRENCY = "currency"
    NO_PACKAGE_FITS = "no_package_fits"
    CAP_REACHED = "cap_reached"
    BREAKER_OPEN = "breaker_open"
    INPUTS_STALE = "inputs_stale"


@dataclass(frozen=True, slots=True)
class Balance:
    """The latest balance. `served_available` was available when the last automatic charge was decided, and `served_at`
    is when its credits came. Both are None once the balance has been at or above the threshold since."""

    version: int
    available: int
    receivable: int
    receivable_since: datetime | None
    last_entry_version: int
    served_available: int | None
    served_at: datetime | None
    last_purchase_at: datetime | None


@dataclass(frozen=True, slots=True)
class Month:
    """What the attempts of this calendar month have reserved, by currency."""

    spent_minor: Mapping[str, int]
    has_charge_limited_by_cap: bool


@dataclass(frozen=True, slots=True)
class Suspension:
    """Recharge stopped after declines or a refusal. `known_cards`, by identity or id, do not lift it."""

    since: datetime
    reason: str
    known_cards: frozenset[str]


@dataclass(frozen=True, slots=True)
class Request:
    """A tenant asks to be recharged now."""

    request: str
    requested_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision about one tenant is based on.

    `month` and `open_attempt` leave out the attempt that is being decided about.
    `paid_otherwise_since`: when a payment in an attempt's name was seen that is not credited yet.
    `stopped_cards`: payment methods that must not be charged again, with the reason.
    `card_proven_at`: when the chosen card last paid with its owner present, or was updated by its network.
    `purchase_left_since`: since when a purchase that was left open has been blocking a recharge.
    `open_breakers`: packages and currencies that Stripe refuses to several tenants.
    """

    profile: BillingProfile
    balance: Balance | None
    packages: tuple[CreditPackage, ...]
    month: Month
    open_attempt: str | None
    paid_otherwise_since: datetime | None
    dispute_open_since: datetime | None
    stopped_cards: Mapping[str, str]
    card_proven_at: datetime | None
    purchase_left_since: datetime | None
    suspension: Suspension | None
    is_frozen: bool
    inputs_caught_up_at: datetime | None
    breaker_open_until: datetime | None
    breaker_is_half_open: bool
    request: Request | None
    open_breakers: tuple[OpenBreaker, ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """Buy this package. `limited_by_cap`: a larger one was wanted and would exceed the month's cap."""

    package: CreditPackage
    limited_by_cap: bool


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not charge. `look_again_at`: when to decide again if nothing else happens. `detail` says more about the
    reason."""

    reason: Reason
    look_again_at: datetime | None = None
    detail: str | None = None


Decision = Charge | Skip


def current_request(situation: Situation, now: datetime) -> Request | None:
    """The request that waits, unless it has expired."""
    request = situation.request
    return request if request is not None and request.expires_at > now else None


def summary_of(decision: Decision, attempt: str | None, request: Request | None) -> str:
    """The decision in one line: a decision with the same summary as the tenant's last one is not recorded again.

    `charge:<attempt>`, or `skip:<reason>:<request>:<detail>` without empty parts at the end. `request` is the current
    one, which the decision answers.
    """
    if attempt is not None:
        return f"charge:{attempt}"
    reason, detail = ("", None) if isinstance(decision, Charge) else (str(decision.reason), decision.detail)
    return "skip:" + ":".join([reason, request.request if request is not None else "", detail or ""]).rstrip(":")
