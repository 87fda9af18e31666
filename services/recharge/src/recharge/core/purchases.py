"""Which open purchase blocks a recharge: only one that may still pay for the need within minutes."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.events import BillingProfile, OpenPurchase

#: For so long an open purchase counts as one that its buyer is about to pay.
LEFT_OPEN_AFTER = timedelta(minutes=5)
#: How long payments has for cancelling a purchase that was left open, from when it first blocks a recharge.
CANCELED_WITHIN = timedelta(minutes=3)
#: The longest wait for a payment that is processing, or whose credits are not posted yet. A card takes seconds, a bank
#: debit days (https://docs.stripe.com/payments/payment-methods).
PAID_WITHIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class BlockingPurchase:
    """A purchase that blocks a recharge. `is_left_open`: it was left open, and payments has to cancel it."""

    purchase: str
    until: datetime
    is_left_open: bool


def blocking_purchase(profile: BillingProfile, left_since: datetime | None, now: datetime) -> BlockingPurchase | None:
    """The purchase that blocks a recharge the longest, or None. `left_since` is since when a purchase that was left
    open has been blocking; None if that begins now."""
    blocking = (_blocking(each, left_since, now) for each in _open_purchases(profile))
    return max((each for each in blocking if each.until > now), key=lambda each: each.until, default=None)


def left_since(
    profile: BillingProfile, before: datetime | None, *, is_blocking: bool, now: datetime
) -> datetime | None:
    """Since when a purchase that was left open has been blocking a recharge. It is kept until none is left open."""
    if all(each.state != "open" or now < each.since + LEFT_OPEN_AFTER for each in _open_purchases(profile)):
        return None
    return (before or now) if is_blocking else before


def _blocking(purchase: OpenPurchase, left_since: datetime | None, now: datetime) -> BlockingPurchase:
    if purchase.state != "open":
        return BlockingPurchase(purchase.purchase, purchase.since + PAID_WITHIN, is_left_open=False)
    left_at = purchase.since + LEFT_OPEN_AFTER
    if now < left_at:
        return BlockingPurchase(purchase.purchase, left_at, is_left_open=False)
    return BlockingPurchase(purchase.purchase, (left_since or now) + CANCELED_WITHIN, is_left_open=True)


def _open_purchases(profile: BillingProfile) -> tuple[OpenPurchase, ...]:
    """The open purchases. An older payments publishes only their ids: those count as opened with the profile."""
    known = {each.purchase for each in profile.purchases}
    others = (name for name in profile.open_purchases if name not in known)
    return (
        *profile.purchases,
        *(OpenPurchase(purchase=name, state="open", since=profile.changed_at) for name in others),
    )
