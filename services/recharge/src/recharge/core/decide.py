"""Whether to charge a saved card now, how much, and if not, why not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from recharge.core.attempts import Attempt, month_of
from recharge.core.cards import chargeable, identity
from recharge.core.purchases import PAID_WITHIN, blocking_purchase
from recharge.core.refusals import OpenBreaker, is_behind_breaker
from recharge.core.transitions import LEASE
from shared.events import AutoRecharge, BillingProfile, CreditPackage
from shared.money import is_chargeable

#: How old the last look at the end of the profile topic may be when a card is charged.
INPUTS_FRESH_FOR = timedelta(seconds=30)
#: How far the clock that dated a consent may be ahead of ours.
CONSENT_CLOCK_SKEW = timedelta(minutes=5)
#: So long after its credits have come a charge answers the need that it was made for.
SERVED_FOR = timedelta(minutes=10)
PROBE_CHECKED_EVERY = timedelta(seconds=5)


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
    """The latest balance. `served_available` is where it stood when the last automatic charge was decided, `served_at`
    when its credits came; both are None once the balance has been seen at or above the threshold since."""

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
    """Charging ended in declines or a refusal. `known_cards` are the cards that do not lift it, by identity or id."""

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
    """All that a decision about one tenant rests on. `month` and `open_attempt` leave out the attempt that is being
    decided about. `stopped_cards` are payment methods that are never to be charged again, with the reason;
    `card_proven_at` is when the chosen card last paid with its owner present, or was updated by its network;
    `paid_otherwise_since` is when a payment in an attempt's name was seen that is not credited yet;
    `purchase_left_since` is since when a purchase that was left open has been in the way."""

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
    #: Packages and currencies that Stripe refuses to several tenants.
    stopped: tuple[OpenBreaker, ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """Buy this package. `limited_by_cap`: a larger one was wanted, and the month's cap leaves no room for it."""

    package: CreditPackage
    limited_by_cap: bool


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not charge. `look_again_at`: when time alone may have changed that. `detail` says more about the reason."""

    reason: Reason
    look_again_at: datetime | None = None
    detail: str | None = None


def decide(situation: Situation, now: datetime) -> Charge | Skip:
    """Whether to begin an attempt now. A waiting request stands in for the threshold, and for nothing else."""
    request = situation.request
    if request is not None and request.expires_at <= now:
        request = None
    return (
        _forbidden_by_owner(situation, now)
        or _already_being_paid(situation, now)
        or (None if request is not None else _not_needed(situation, now))
        or _blocked(situation, now)
        or _choose_package(situation, now)
    )


def may_charge(situation: Situation, attempt: Attempt, now: datetime) -> Skip | None:
    """Why this open attempt must not move to `charging` now; None where it may.

    Asked under the lock of the tenant's profile row: between the decision and the charge anything may have changed.
    """
    settings = situation.profile.auto_recharge
    return (
        _forbidden_by_owner(situation, now)
        or _is_of_another_customer(situation, attempt)
        or _already_being_paid(situation, now)
        or _not_needed_any_more(situation, attempt, now)
        or _blocked(situation, now)
        or (None if settings is None else _exceeds_consent(situation, settings, attempt, now))
        or _refused_to_several(situation, attempt.package, attempt.currency, now)
        or _not_possible_now(situation, now)
    )


def _not_needed_any_more(situation: Situation, attempt: Attempt, now: datetime) -> Skip | None:
    """A request stands in for the threshold until it expires, or its owner has bought since."""
    no_need = _not_needed(situation, now, of_open_attempt=True)
    if attempt.trigger == "automatic":
        return no_need
    request, balance = situation.request, situation.balance
    is_asked_for = request is not None and request.request == attempt.request and request.expires_at > now
    bought_at = balance.last_purchase_at if balance else None
    if bought_at is not None and bought_at > attempt.created_at:
        return no_need and Skip(Reason.NEED_ALREADY_SERVED)
    if is_asked_for:
        return None
    if attempt.n == 0 or (no_need is not None and no_need.reason is Reason.ABOVE_THRESHOLD):
        return Skip(Reason.REQUEST_EXPIRED)
    return no_need


def _is_of_another_customer(situation: Situation, attempt: Attempt) -> Skip | None:
    """Stripe deleted the customer, and made the tenant another: the saved cards are of that one."""
    customer = situation.profile.stripe_customer
    return Skip(Reason.CUSTOMER_CHANGED) if customer not in (None, attempt.stripe_customer) else None


def _forbidden_by_owner(situation: Situation, now: datetime) -> Skip | None:
    settings = situation.profile.auto_recharge
    if situation.is_frozen:
        return Skip(Reason.FROZEN)
    if settings is None or not settings.enabled:
        return Skip(Reason.DISABLED)
    if settings.consent is None:
        return Skip(Reason.NO_CONSENT)
    if settings.consent.given_at > now + CONSENT_CLOCK_SKEW:
        return Skip(Reason.NO_CONSENT, settings.consent.given_at - CONSENT_CLOCK_SKEW, detail="dated_in_the_future")
    return None


def _already_being_paid(situation: Situation, now: datetime) -> Skip | None:
    if situation.open_attempt is not None:
        return Skip(Reason.ATTEMPT_OPEN)
    since = situation.paid_otherwise_since
    if since is not None and now < since + PAID_WITHIN:
        return Skip(Reason.ATTEMPT_OPEN, since + PAID_WITHIN, detail="paid_otherwise")
    return None


def _not_needed(situation: Situation, now: datetime, *, of_open_attempt: bool = False) -> Skip | None:
    settings, balance = situation.profile.auto_recharge, situation.balance
    if balance is None:
        return Skip(Reason.BALANCE_UNKNOWN)
    if balance.version < max(balance.last_entry_version, situation.profile.credited_in_version):
        return Skip(Reason.BALANCE_OLDER_THAN_CREDIT)
    if settings is None or not is_low(balance.available, settings):
        return Skip(Reason.ABOVE_THRESHOLD)
    served_until = None if of_open_attempt else _served_until(balance, settings)
    if served_until is not None and now < served_until:
        return Skip(Reason.NEED_ALREADY_SERVED, served_until)
    return None


def is_low(available: int, settings: AutoRecharge) -> bool:
    """Whether a balance asks for a recharge: it is below the threshold, or nothing is left (a threshold of 0)."""
    return available < max(settings.threshold_credits, 1)


def _served_until(balance: Balance, settings: AutoRecharge) -> datetime | None:
    """Until when this shortfall counts as answered by its charge, which did not lift the balance over the threshold.

    It is a new need at once where the product is refused (nothing is available), where as much is missing again as
    before the charge, and where its owner has saved the settings since, with consent; otherwise after `SERVED_FOR`,
    because what the product was refused is not known here. In other systems more was charged than asked for, and
    nothing although it was needed (redguava/cliniko-api#167).
    """
    if balance.served_available is None or balance.available <= balance.served_available or balance.available <= 0:
        return None
    consented_at = settings.consent.given_at if settings.consent else None
    if balance.served_at is None or (consented_at is not None and consented_at > balance.served_at):
        return None
    return balance.served_at + SERVED_FOR


def _blocked(situation: Situation, now: datetime) -> Skip | None:
    if (stopped := _chosen_card_is_stopped(situation)) is not None:
        return stopped
    if is_suspended(situation):
        return Skip(Reason.SUSPENDED, detail=situation.suspension.reason if situation.suspension else None)
    if situation.dispute_open_since is not None and not _owner_acted_since(situation, situation.dispute_open_since):
        return Skip(Reason.DISPUTE_OPEN)
    balance = situation.balance
    if balance is not None and balance.receivable > 0:
        since = balance.receivable_since
        if since is None or not _owner_acted_since(situation, since):
            return Skip(Reason.RECEIVABLE_OPEN)
    holding = blocking_purchase(situation.profile, situation.purchase_left_since, now)
    if holding is not None:
        reason = Reason.PURCHASE_LEFT_OPEN if holding.is_left_open else Reason.OPEN_PURCHASE
        return Skip(reason, holding.until, detail=holding.purchase)
    if chargeable(situation.profile, situation.stopped_cards):
        return None
    return _no_card(situation)


def _no_card(situation: Situation) -> Skip:
    profile = situation.profile
    chosen = profile.auto_recharge.payment_method if profile.auto_recharge else None
    card = next((card for card in profile.cards if card.payment_method == chosen), None)
    if profile.stripe_customer is None or chosen is None:
        return Skip(Reason.NO_CARD, detail="not_chosen")
    if card is None:
        return Skip(Reason.NO_CARD, detail="removed")
    return Skip(Reason.NO_CARD, detail="unusable")


def _chosen_card_is_stopped(situation: Situation) -> Skip | None:
    settings = situation.profile.auto_recharge
    why = situation.stopped_cards.get(settings.payment_method) if settings and settings.payment_method else None
    return None if why is None else Skip(Reason.CARD_STOPPED, detail=why)


def is_suspended(situation: Situation) -> bool:
    """A suspension is over when its owner has consented anew, chosen a card that was not there, or paid with the chosen
    one, or when that card was updated by its network."""
    suspension = situation.suspension
    if suspension is None:
        return False
    settings = situation.profile.auto_recharge
    consent = settings.consent if settings else None
    if consent is not None and consent.given_at > suspension.since:
        return False
    if situation.card_proven_at is not None and situation.card_proven_at > suspension.since:
        return False
    return all(
        not suspension.known_cards.isdisjoint((identity(card), card.payment_method))
        for card in chargeable(situation.profile, situation.stopped_cards)
    )


def _owner_acted_since(situation: Situation, moment: datetime) -> bool:
    """Its owner has bought, or has saved the settings with consent, after this came up."""
    settings = situation.profile.auto_recharge
    consent = settings.consent if settings else None
    bought_at = situation.balance.last_purchase_at if situation.balance else None
    return (consent is not None and consent.given_at > moment) or (bought_at is not None and bought_at > moment)


def _choose_package(situation: Situation, now: datetime) -> Charge | Skip:
    settings = situation.profile.auto_recharge
    assert settings is not None
    month = situation.month
    offered = [
        package
        for package in situation.packages
        if package.active
        and package.currency == settings.currency
        and package.credits > 0
        and is_chargeable(package.price_minor, package.currency)
    ]
    if not offered or month.spent_minor.keys() - {settings.currency}:
        return Skip(Reason.CURRENCY, None if not offered else _next_month(now))
    wanted = best_package(offered, settings.amount_minor)
    if wanted is None:
        return Skip(Reason.NO_PACKAGE_FITS)
    left_minor = settings.monthly_cap_minor - month.spent_minor.get(settings.currency, 0)
    chosen = best_package(offered, min(settings.amount_minor, left_minor))
    if chosen is None or (chosen != wanted and month.has_charge_limited_by_cap):
        return Skip(Reason.CAP_REACHED, _next_month(now))
    return (
        _refused_to_several(situation, chosen.package, chosen.currency, now)
        or _not_possible_now(situation, now)
        or Charge(chosen, limited_by_cap=chosen != wanted)
    )


def best_package(packages: Iterable[CreditPackage], amount_minor: int) -> CreditPackage | None:
    """The most credits that the amount buys in one package; the cheaper one of equals."""
    fitting = [package for package in packages if package.price_minor <= amount_minor]
    return min(fitting, key=lambda each: (-each.credits, each.price_minor, each.package), default=None)


def _exceeds_consent(situation: Situation, settings: AutoRecharge, attempt: Attempt, now: datetime) -> Skip | None:
    spent = situation.month.spent_minor
    if attempt.currency != settings.currency or spent.keys() - {attempt.currency}:
        return Skip(Reason.CURRENCY)
    if spent.get(attempt.currency, 0) + attempt.amount_minor > settings.monthly_cap_minor:
        return Skip(Reason.CAP_REACHED, _next_month(now))
    if attempt.amount_minor > settings.amount_minor:
        # The owner has lowered the amount since, and consented to no more: what is wanted is decided again.
        return Skip(Reason.NO_PACKAGE_FITS)
    return None


def _not_possible_now(situation: Situation, now: datetime) -> Skip | None:
    if situation.breaker_open_until is not None and situation.breaker_open_until > now:
        return Skip(Reason.BREAKER_OPEN, _tried_again_at(situation.breaker_open_until, now))
    caught_up_at = situation.inputs_caught_up_at
    if caught_up_at is None or now - caught_up_at > INPUTS_FRESH_FOR:
        return Skip(Reason.INPUTS_STALE, now + timedelta(seconds=1))
    return None


def _refused_to_several(situation: Situation, package: str, currency: str, now: datetime) -> Skip | None:
    """What Stripe has refused to several tenants is tried for one of them at a time."""
    open_until = max(
        (each.open_until for each in situation.stopped if is_behind_breaker([each], package, currency)), default=now
    )
    return Skip(Reason.BREAKER_OPEN, _tried_again_at(open_until, now)) if open_until > now else None


def _tried_again_at(open_until: datetime, now: datetime) -> datetime:
    """While a probe may be under way the others look again soon: its answer may come long before its lease ends."""
    return min(open_until, now + PROBE_CHECKED_EVERY) if open_until <= now + LEASE else open_until


def _next_month(now: datetime) -> datetime:
    first = month_of(now)
    later = first.replace(year=first.year + 1, month=1) if first.month == 12 else first.replace(month=first.month + 1)
    return datetime(later.year, later.month, 1, tzinfo=UTC)
