"""Whether a balance asks for a recharge, and when a new need begins after a charge."""

from datetime import datetime, timedelta

from recharge.core.situation import Balance, Reason, Situation, Skip
from shared.events import AutoRecharge, BillingProfile

#: How long a charge serves the need that it was made for, counted from when its credits came.
SERVED_FOR = timedelta(minutes=10)


def not_needed(situation: Situation, now: datetime, *, of_open_attempt: bool = False) -> Skip | None:
    """Why the balance asks for no recharge; None if there is a need. An attempt that is open already
    (`of_open_attempt`) does not serve the need itself."""
    settings, balance = situation.profile.auto_recharge, situation.balance
    if balance is None:
        return Skip(Reason.BALANCE_UNKNOWN)
    if _is_older_than_credit(balance, situation.profile):
        return Skip(Reason.BALANCE_OLDER_THAN_CREDIT)
    if settings is None or not is_low(balance.available, settings):
        return Skip(Reason.ABOVE_THRESHOLD)
    until = None if of_open_attempt else _served_until(balance, settings)
    if until is not None and now < until:
        return Skip(Reason.NEED_ALREADY_SERVED, until)
    return None


def is_low(available: int, settings: AutoRecharge) -> bool:
    """Whether a balance asks for a recharge: it is below the threshold, or nothing is left (a threshold of 0)."""
    return available < max(settings.threshold_credits, 1)


def _served_until(balance: Balance, settings: AutoRecharge) -> datetime | None:
    """Until when a shortfall counts as served by its charge, which did not lift the balance to the threshold.

    It is a new need at once if nothing is available, so that the product is refused; if as much is missing as before
    the charge; or if its owner has saved the settings since, with consent. Otherwise it is one after `SERVED_FOR`,
    because recharge does not know what the product was refused. Other systems charged more than was asked for, or
    nothing although it was needed (redguava/cliniko-api#167).
    """
    if balance.served_available is None or balance.available <= balance.served_available or balance.available <= 0:
        return None
    consented_at = settings.consent.given_at if settings.consent else None
    if balance.served_at is None or (consented_at is not None and consented_at > balance.served_at):
        return None
    return balance.served_at + SERVED_FOR


def need_is_over(balance: Balance | None, profile: BillingProfile) -> bool:
    """Whether the balance has been lifted to the threshold since the last automatic charge: what falls below it later
    is a new need."""
    settings = profile.auto_recharge
    return (
        balance is not None
        and settings is not None
        and balance.served_available is not None
        and not _is_older_than_credit(balance, profile)
        and balance.available >= settings.threshold_credits
    )


def _is_older_than_credit(balance: Balance, profile: BillingProfile) -> bool:
    return balance.version < max(balance.last_entry_version, profile.credited_in_version)
