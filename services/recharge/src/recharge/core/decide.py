"""Whether to charge a saved card now, how much, and if not, why not."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from recharge.core.attempts import Attempt, State, month_of
from recharge.core.breakers import is_behind_breaker
from recharge.core.cards import chargeable, identity
from recharge.core.need import not_needed
from recharge.core.purchases import PAID_WITHIN, blocking_purchase
from recharge.core.situation import Charge, Decision, Reason, Situation, Skip, current_request
from recharge.core.transitions import LEASE
from shared.events import AutoRecharge, CreditPackage
from shared.money import is_chargeable

#: How long ago the profile topic may have been read to its end when a card is charged.
INPUTS_FRESH_FOR = timedelta(seconds=30)
#: How far the clock that dated a consent may be ahead of ours.
CONSENT_CLOCK_SKEW = timedelta(minutes=5)
PROBE_CHECKED_EVERY = timedelta(seconds=5)


def decide(situation: Situation, now: datetime) -> Decision:
    """Whether to begin an attempt now. A waiting request replaces the threshold, and no other condition."""
    return (
        _forbidden_by_owner(situation, now)
        or _already_being_paid(situation, now)
        or (None if current_request(situation, now) is not None else not_needed(situation, now))
        or _blocked(situation, now)
        or _choose_package(situation, now)
    )


def new_attempt(tenant: str, name: str, situation: Situation, charge: Charge, now: datetime) -> Attempt:
    """The attempt that a decision to charge begins; `name` is its new id."""
    assert situation.profile.stripe_customer is not None
    request = current_request(situation, now)
    return Attempt(
        tenant_id=tenant,
        attempt=name,
        version=1,
        state=State.RESERVED,
        trigger="manual" if request else "automatic",
        request=request.request if request else None,
        amount_minor=charge.package.price_minor,
        currency=charge.package.currency,
        credits=charge.package.credits,
        package=charge.package.package,
        expires_in_days=charge.package.expires_in_days,
        limited_by_cap=charge.limited_by_cap,
        stripe_customer=situation.profile.stripe_customer,
        profile_version=situation.profile.version,
        balance_available=situation.balance.available if situation.balance else None,
        created_at=now,
        changed_at=now,
        next_at=now,
        reason="limited_by_cap" if charge.limited_by_cap else None,
    )


def may_charge(situation: Situation, attempt: Attempt, now: datetime) -> Skip | None:
    """Why this open attempt must not be charged now; None if it may.

    Asked before each call that charges, under the lock of the tenant's profile row: since the decision everything may
    have changed.
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
    """A request replaces the threshold until it expires, or until its owner has bought since."""
    no_need = not_needed(situation, now, of_open_attempt=True)
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
    """The tenant's customer was deleted at Stripe, and the saved cards belong to its new one."""
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
    blocking = blocking_purchase(situation.profile, situation.purchase_left_since, now)
    if blocking is not None:
        reason = Reason.PURCHASE_LEFT_OPEN if blocking.is_left_open else Reason.OPEN_PURCHASE
        return Skip(reason, blocking.until, detail=blocking.purchase)
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
    """A suspension ends when its owner consents again, chooses a card that was not there, or pays with the chosen card,
    or when that card is updated by its network."""
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
    """Whether its owner has bought, or has saved the settings with consent, after this moment."""
    settings = situation.profile.auto_recharge
    consent = settings.consent if settings else None
    bought_at = situation.balance.last_purchase_at if situation.balance else None
    return (consent is not None and consent.given_at > moment) or (bought_at is not None and bought_at > moment)


def _choose_package(situation: Situation, now: datetime) -> Decision:
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
    """The package with the most credits for the amount; among equals the cheapest."""
    fitting = [package for package in packages if package.price_minor <= amount_minor]
    return min(fitting, key=lambda each: (-each.credits, each.price_minor, each.package), default=None)


def _exceeds_consent(situation: Situation, settings: AutoRecharge, attempt: Attempt, now: datetime) -> Skip | None:
    spent = situation.month.spent_minor
    if attempt.currency != settings.currency or spent.keys() - {attempt.currency}:
        return Skip(Reason.CURRENCY)
    if spent.get(attempt.currency, 0) + attempt.amount_minor > settings.monthly_cap_minor:
        return Skip(Reason.CAP_REACHED, _next_month(now))
    if attempt.amount_minor > settings.amount_minor:
        # Its owner has lowered the amount since and consents to no more: another package is decided on.
        return Skip(Reason.NO_PACKAGE_FITS)
    return None


def _not_possible_now(situation: Situation, now: datetime) -> Skip | None:
    if situation.breaker_open_until is not None and situation.breaker_open_until > now:
        return Skip(Reason.BREAKER_OPEN, _tried_again_at(situation.breaker_open_until, now))
    caught_up_at = situation.inputs_caught_up_at
    if caught_up_at is None or now - caught_up_at > INPUTS_FRESH_FOR:
        return Skip(Reason.INPUTS_STALE, now + timedelta(seconds=1))
    return None


def is_half_open(situation: Situation, attempt: Attempt) -> bool:
    """Whether a breaker applies to this attempt's charge, which may then pass only as a probe."""
    return situation.breaker_is_half_open or is_behind_breaker(
        situation.open_breakers, attempt.package, attempt.currency
    )


def no_probe_left(now: datetime) -> Skip:
    """Why an attempt is not charged that may not be the probe of a half-open breaker."""
    return Skip(Reason.BREAKER_OPEN, now + PROBE_CHECKED_EVERY)


def _refused_to_several(situation: Situation, package: str, currency: str, now: datetime) -> Skip | None:
    """What Stripe refuses to several tenants is tried for one of them at a time."""
    open_until = max(
        (each.open_until for each in situation.open_breakers if is_behind_breaker([each], package, currency)),
        default=now,
    )
    return Skip(Reason.BREAKER_OPEN, _tried_again_at(open_until, now)) if open_until > now else None


def _tried_again_at(open_until: datetime, now: datetime) -> datetime:
    """While a probe may be under way the others check again soon: its answer may come long before its lease ends."""
    return min(open_until, now + PROBE_CHECKED_EVERY) if open_until <= now + LEASE else open_until


def _next_month(now: datetime) -> datetime:
    first = month_of(now)
    later = first.replace(year=first.year + 1, month=1) if first.month == 12 else first.replace(month=first.month + 1)
    return datetime(later.year, later.month, 1, tzinfo=UTC)
