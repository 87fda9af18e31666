"""What a tenant may set for automatic recharge. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from payments.core.pricing import AmountNotChargeable, Package, best_package_within, check_chargeable
from shared.money import Money


@dataclass(frozen=True, slots=True)
class Terms:
    """`limit` is the most that one recharge may cost. `monthly_cap_minor` is in the currency of `limit`."""

    enabled: bool
    threshold_credits: int
    limit: Money
    monthly_cap_minor: int


@dataclass(frozen=True, slots=True)
class ConsentEvidence:
    """Who agreed to off-session charges, when, and to which text. Stored with the terms, and never changed."""

    consent_id: str
    text_version: str
    given_by: str
    given_at: datetime


class TermsRefused(Exception):
    """The settings are not allowed. `code` is stable; the message says what to change."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def check_terms(terms: Terms, consent_text_version: str | None, packages: Iterable[Package]) -> None:
    """Raises `TermsRefused`, or `NotForSale` for an amount that Stripe would not charge."""
    if terms.limit.amount_minor > terms.monthly_cap_minor:
        raise TermsRefused(
            "amount_over_cap", "One recharge would cost more than the month's cap. Raise monthlyCapMinor."
        )
    check_chargeable(terms.limit)
    if terms.monthly_cap_minor > 2**53 - 1:
        raise AmountNotChargeable("monthlyCapMinor is too large.")
    if best_package_within(packages, terms.limit) is None:
        raise TermsRefused("no_package_fits", f"No package costs {terms.limit} or less. Raise amountMinor.")
    if terms.enabled and consent_text_version is None:
        raise TermsRefused(
            "consent_required",
            "Automatic recharge needs its owner's consent: send consent.textVersion of what was read.",
        )
