"""What credits cost: packages, and custom amounts at the rate of the best package that the amount would pay for. Pure.

A client names a package or an amount. Only this module decides how many credits it buys.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.money import Money, is_chargeable, maximum_charge_minor, minimum_charge_minor


@dataclass(frozen=True, slots=True)
class Package:
    """Credits for a price. Each purchase keeps a copy of its price, so a later change does not affect it."""

    package_id: str
    version: int
    name: str
    credits: int
    price_minor: int
    currency: str
    active: bool
    expires_in_days: int | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """What is sold: `credits` for `price`. `package_id` is None for a custom amount."""

    credits: int
    price: Money
    expires_in_days: int | None
    package_id: str | None


class NotForSale(Exception):
    """No quote; the message says why and what to do."""


class PackageUnknown(NotForSale):
    """No active package has this id."""


class CurrencyUnknown(NotForSale):
    """No active package is sold in this currency."""


class AmountBelowMinimum(NotForSale):
    """Stripe would not charge so little, or it would not buy one credit."""

    def __init__(self, minimum: Money) -> None:
        super().__init__(f"The smallest amount is {minimum}.")
        self.minimum = minimum


class AmountNotChargeable(NotForSale):
    """Stripe would refuse the amount: too large, or a fraction that the currency does not have."""


def quote_package(packages: Iterable[Package], package_id: str) -> Quote:
    """The quote for an active package, or `PackageUnknown`."""
    for package in packages:
        if package.package_id == package_id and package.active:
            price = Money(package.price_minor, package.currency)
            return Quote(package.credits, price, package.expires_in_days, package.package_id)
    raise PackageUnknown(f"There is no package {package_id!r}. GET /api/credits/packages lists those for sale.")


def quote_amount(packages: Iterable[Package], price: Money) -> Quote:
    """The quote for a custom amount: the rate of the best package it would pay for, credits rounded down.

    An amount under every package buys at the rate of the cheapest one. Raises `NotForSale`.
    """
    sold = _sold_in(packages, price.currency)
    if not sold:
        raise CurrencyUnknown(f"Credits are not sold in {price.currency.upper()}.")
    check_chargeable(price)
    tier = _best_rate([package for package in sold if package.price_minor <= price.amount_minor]) or sold[0]
    credits = price.amount_minor * tier.credits // tier.price_minor
    if credits < 1:
        raise AmountBelowMinimum(Money(-(-tier.price_minor // tier.credits), price.currency))
    return Quote(credits, price, tier.expires_in_days, None)


def best_package_within(packages: Iterable[Package], limit: Money) -> Package | None:
    """The active package with the most credits per minor unit that costs no more than `limit`; None where none fits."""
    return _best_rate([each for each in _sold_in(packages, limit.currency) if each.price_minor <= limit.amount_minor])


def check_chargeable(price: Money) -> None:
    """Raises `AmountBelowMinimum` or `AmountNotChargeable` for an amount that Stripe would refuse."""
    minimum_minor = minimum_charge_minor(price.currency)
    if price.amount_minor < minimum_minor:
        raise AmountBelowMinimum(Money(minimum_minor, price.currency))
    maximum_minor = maximum_charge_minor(price.currency)
    if price.amount_minor > maximum_minor:
        raise AmountNotChargeable(f"The largest amount is {Money(maximum_minor, price.currency)}.")
    if not is_chargeable(price.amount_minor, price.currency):
        raise AmountNotChargeable(f"Stripe does not charge {price.amount_minor} {price.currency.upper()}; round it.")


def _sold_in(packages: Iterable[Package], currency: str) -> Sequence[Package]:
    return sorted(
        (package for package in packages if package.active and package.currency == currency),
        key=lambda package: (package.price_minor, package.package_id),
    )


def _best_rate(packages: Sequence[Package]) -> Package | None:
    """Most credits per minor unit; among equals the larger one. `packages` are sorted by price."""
    best: Package | None = None
    for package in packages:
        # credits / price compared without division
        if best is None or package.credits * best.price_minor >= best.credits * package.price_minor:
            best = package
    return best
