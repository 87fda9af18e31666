"""Which open purchase holds a recharge back: only one that may still pay this need within minutes."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.events import BillingProfile, OpenPurchase

#: So long a purchase that nobody has paid counts as one that its buyer is at.
LEFT_OPEN_AFTER = timedelta(minutes=5)
#: So long payments has for cancelling a purchase that was left open, from when it is in the way of a recharge.
CANCELED_WITHIN = timedelta(minutes=3)
#: A payment that its bank decides on, or whose credits are on their way, is not waited for longer. A bank debit takes
#: days (https://docs.stripe.com/payments/payment-methods), a card seconds.
PAID_WITHIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class BlockingPurchase:
    """A purchase that holds a recharge back. `is_left_open`: it was left open, and payments is to cancel it."""

    purchase: str
    until: datetime
    is_left_open: bool


def blocking_purchase(profile: BillingProfile, left_since: datetime | None, now: datetime) -> BlockingPurchase | None:
    """The purchase that holds a recharge back the longest, or None. `left_since` is since when one that was left open
    has been in the way; None where that begins now."""
    holding = (_blocking(each, left_since, now) for each in _open_purchases(profile))
    return max((each for each in holding if each.until > now), key=lambda each: each.until, default=None)


def left_since(
    profile: BillingProfile, before: datetime | None, *, is_in_the_way: bool, now: datetime
) -> datetime | None:
    """Since when a purchase that was left open has been in the way of a recharge: kept until none is left open."""
    if all(each.state != "open" or now < each.since + LEFT_OPEN_AFTER for each in _open_purchases(profile)):
        return None
    return (before or now) if is_in_the_way else before


def _blocking(purchase: OpenPurchase, left_since: datetime | None, now: datetime) -> BlockingPurchase:
    if purchase.state != "open":
        return BlockingPurchase(purchase.purchase, purchase.since + PAID_WITHIN, is_left_open=False)
    left_at = purchase.since + LEFT_OPEN_AFTER
    if now < left_at:
        return BlockingPurchase(purchase.purchase, left_at, is_left_open=False)
    return BlockingPurchase(purchase.purchase, (left_since or now) + CANCELED_WITHIN, is_left_open=True)


def _open_purchases(profile: BillingProfile) -> tuple[OpenPurchase, ...]:
    """The open purchases; one whose state an older payments does not tell counts as opened with the profile."""
    told = {each.purchase for each in profile.purchases}
    untold = (name for name in profile.open_purchases if name not in told)
    return (
        *profile.purchases,
        *(OpenPurchase(purchase=name, state="open", since=profile.changed_at) for name in untold),
    )
