"""Which amounts Stripe charges, by currency (https://docs.stripe.com/currencies)."""

import pytest

from shared.money import is_chargeable


@pytest.mark.parametrize(
    ("amount_minor", "currency", "expected"),
    [
        (99_999_999, "usd", True), (100_000_000, "usd", False), (49, "usd", False), (50, "usd", True),
        (150_000_000, "idr", True), (999_999_999_999, "idr", True), (1_000_000_000_000, "idr", False),
        (99_999_999, "jpy", True), (100_000_000, "jpy", False), (1_050, "isk", False), (1_100, "isk", True),
        (10_001, "kwd", False), (10_010, "kwd", True), (99, "bgn", False), (100, "bgn", True),
    ],
)  # fmt: skip
def test_an_amount_is_chargeable_within_the_limits_of_its_currency(
    amount_minor: int, currency: str, expected: bool
) -> None:
    """IDR: InvoiceShelf/InvoiceShelf#73, where a maximum of eight digits for every currency refused 1,500,000 IDR."""
    assert is_chargeable(amount_minor, currency) == expected
