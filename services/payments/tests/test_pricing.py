"""Quotes for packages and custom amounts. An amount never buys at a worse rate than a package it would pay for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.core.pricing import (
    AmountBelowMinimum,
    AmountNotChargeable,
    CurrencyUnknown,
    Package,
    PackageUnknown,
    best_package_within,
    quote_amount,
    quote_package,
)
from shared.money import Money


def package(package_id: str, credits: int, price_minor: int, currency: str = "usd", *, active: bool = True) -> Package:
    return Package(package_id, 1, package_id.title(), credits, price_minor, currency, active)


PACKAGES = [
    package("starter", 1000, 1000),
    package("growth", 5500, 5000),
    package("scale", 12000, 10000),
    package("old", 99999, 1000, active=False),
    package("starter-jpy", 1000, 1500, "jpy"),
]


def test_a_package_is_quoted_at_its_price() -> None:
    quote = quote_package(PACKAGES, "growth")
    assert (quote.credits, quote.price, quote.package_id) == (5500, Money(5000, "usd"), "growth")


@pytest.mark.parametrize("package_id", ["old", "nonsense", ""])
def test_a_package_that_is_not_for_sale_has_no_quote(package_id: str) -> None:
    with pytest.raises(PackageUnknown):
        quote_package(PACKAGES, package_id)


@pytest.mark.parametrize(
    ("price", "credits"),
    [
        (Money(50, "usd"), 50),
        (Money(4999, "usd"), 4999),
        (Money(5000, "usd"), 5500),
        (Money(5001, "usd"), 5501),
        (Money(10000, "usd"), 12000),
        (Money(1499, "jpy"), 999),
    ],
)
def test_an_amount_buys_at_the_rate_of_the_best_package_it_would_pay_for(price: Money, credits: int) -> None:
    assert quote_amount(PACKAGES, price).credits == credits


def test_amounts_that_stripe_would_refuse_are_not_sold() -> None:
    with pytest.raises(AmountBelowMinimum):
        quote_amount(PACKAGES, Money(49, "usd"))
    with pytest.raises(AmountNotChargeable):
        quote_amount(PACKAGES, Money(100_000_000, "usd"))
    with pytest.raises(CurrencyUnknown):
        quote_amount(PACKAGES, Money(5000, "chf"))
    with pytest.raises(AmountBelowMinimum) as error:
        quote_amount([package("dear", 1, 10_000)], Money(9_999, "usd"))
    assert error.value.minimum == Money(10_000, "usd")


def test_the_best_package_within_a_limit_is_the_one_with_the_most_credits_for_the_money() -> None:
    assert best_package_within(PACKAGES, Money(999, "usd")) is None
    best = best_package_within(PACKAGES, Money(9999, "usd"))
    assert best is not None and best.package_id == "growth"


amounts = st.integers(50, 99_999_999)
packages = st.lists(
    st.builds(
        lambda number, credits, price: package(f"p{number}", credits, price),
        st.integers(0, 99),
        st.integers(1, 10**9),
        st.integers(50, 10**7),
    ),
    min_size=1,
    max_size=6,
)


@given(packages, amounts)
def test_an_amount_never_buys_less_than_the_packages_it_would_pay_for(for_sale: list[Package], amount: int) -> None:
    affordable = [each for each in for_sale if each.price_minor <= amount]
    if not affordable:
        return
    credits = quote_amount(for_sale, Money(amount, "usd")).credits
    assert all(credits >= each.credits for each in affordable)


@given(packages, amounts, amounts)
def test_more_money_never_buys_fewer_credits_once_a_package_is_paid_for(
    for_sale: list[Package], one: int, other: int
) -> None:
    less, more = sorted((one, other))
    if less < min(each.price_minor for each in for_sale):
        return
    assert quote_amount(for_sale, Money(less, "usd")).credits <= quote_amount(for_sale, Money(more, "usd")).credits
