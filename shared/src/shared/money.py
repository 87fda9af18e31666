"""Money as Stripe represents it: an integer amount in minor units, and an ISO 4217 code in lower case.

Source: https://docs.stripe.com/currencies (zero-decimal, special cases, minimum and maximum charge amounts).
"""

from dataclasses import dataclass

ZERO_DECIMAL = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
#: Zero-decimal currencies that Stripe represents with two decimals, of which both must be 0.
ZERO_DECIMAL_AS_TWO_DECIMAL = frozenset(["isk", "ugx"])
#: Currencies with three decimals, of which the last must be 0.
THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])

#: The smallest charge in minor units, for the settlement currencies that Stripe lists.
MINIMUM_CHARGE_MINOR = {
    "usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50,
    "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50,
    "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}  # fmt: skip
#: The largest charge in minor units, where it is not the default of eight digits.
MAXIMUM_CHARGE_MINOR = {"idr": 999_999_999_999}
DEFAULT_MAXIMUM_CHARGE_MINOR = 99_999_999
#: For currencies without a documented minimum; that of most settlement currencies.
DEFAULT_MINIMUM_CHARGE_MINOR = 50


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units of one currency."""

    amount_minor: int
    currency: str

    def __str__(self) -> str:
        code = self.currency.upper()
        if self.currency in ZERO_DECIMAL:
            return f"{self.amount_minor} {code}"
        if self.currency in THREE_DECIMAL:
            return f"{self.amount_minor / 1000:.3f} {code}"
        return f"{self.amount_minor / 100:.2f} {code}"


def is_chargeable(amount_minor: int, currency: str) -> bool:
    """Whether Stripe accepts a charge of this amount: within the limits, and with the required last digits."""
    if not minimum_charge_minor(currency) <= amount_minor <= maximum_charge_minor(currency):
        return False
    if currency in ZERO_DECIMAL_AS_TWO_DECIMAL:
        return amount_minor % 100 == 0
    if currency in THREE_DECIMAL:
        return amount_minor % 10 == 0
    return True


def minimum_charge_minor(currency: str) -> int:
    """The smallest amount, in minor units, that Stripe charges in this currency."""
    return MINIMUM_CHARGE_MINOR.get(currency, DEFAULT_MINIMUM_CHARGE_MINOR)


def maximum_charge_minor(currency: str) -> int:
    """The largest amount, in minor units, that Stripe charges in this currency."""
    return MAXIMUM_CHARGE_MINOR.get(currency, DEFAULT_MAXIMUM_CHARGE_MINOR)
