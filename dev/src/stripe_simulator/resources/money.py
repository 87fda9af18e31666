"""Which amounts Stripe takes (https://docs.stripe.com/currencies)."""

from stripe_simulator.errors import InvalidRequest

_CURRENCIES_LISTED = (
    "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf "
    "clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils "
    "inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mro mur mvr "
    "mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd "
    "shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer zar "
    "zmw"
)
_CURRENCIES = frozenset(_CURRENCIES_LISTED.split())
_ZERO_DECIMAL = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
)
_THREE_DECIMAL = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))
# Sent times 100 although they have no decimals, so the last two digits must be 00.
_WHOLE_UNITS_ONLY = frozenset(("isk", "ugx"))
# Eight digits, and twelve where a unit is worth little.
_MAXIMUM_MINOR = {"idr": 999_999_999_999}
_MAXIMUM_MINOR_ELSEWHERE = 99_999_999

_MINIMUM_MINOR = {
    "aed": 200, "bgn": 100, "czk": 1500, "dkk": 250, "gbp": 30, "hkd": 400, "huf": 17500, "mxn": 1000,
    "myr": 200, "nok": 300, "pln": 200, "ron": 200, "sek": 300, "thb": 1000,
}  # fmt: skip
# Elsewhere Stripe asks for the like of 0.50 USD at the day's rate; fifty of the minor unit stand in for that.
_MINIMUM_MINOR_ELSEWHERE = 50


def check_currency(currency: str) -> str:
    """The currency in lower case; refused when Stripe does not know it."""
    lowered = currency.lower()
    if lowered not in _CURRENCIES:
        raise InvalidRequest(
            f"Invalid currency: {lowered}. Stripe currently supports these currencies: "
            f"{', '.join(sorted(_CURRENCIES))}",
            param="currency",
        )
    return lowered


def check_amount(amount_minor: int, currency: str, *, param: str = "amount") -> int:
    """The amount in minor units, refused when too small, too large, or not a multiple the currency takes."""
    if amount_minor < 1:
        raise InvalidRequest(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param=param
        )
    minimum = _MINIMUM_MINOR.get(currency, _MINIMUM_MINOR_ELSEWHERE)
    if amount_minor < minimum:
        raise InvalidRequest(
            f"Amount must be at least {written(minimum, currency)}", code="amount_too_small", param=param
        )
    maximum = _MAXIMUM_MINOR.get(currency, _MAXIMUM_MINOR_ELSEWHERE)
    if amount_minor > maximum:
        raise InvalidRequest(
            f"Amount must be no more than {written(maximum, currency)}",
            code="amount_too_large",
            param=param,
        )
    step = 100 if currency in _WHOLE_UNITS_ONLY else 10 if currency in _THREE_DECIMAL else 1
    if amount_minor % step:
        raise InvalidRequest(
            f"Invalid integer: amounts in {currency} must be a multiple of {step}.",
            code="parameter_invalid_integer",
            param=param,
        )
    return amount_minor


def written(amount_minor: int, currency: str) -> str:
    """An amount for people, such as `$0.50 usd` or `¥50 jpy`."""
    sign = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}.get(currency, "")
    if currency in _ZERO_DECIMAL:
        return f"{sign}{amount_minor:,} {currency}"
    decimals = 3 if currency in _THREE_DECIMAL else 2
    return f"{sign}{amount_minor / 10**decimals:,.{decimals}f} {currency}"
