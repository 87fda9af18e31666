"""Which card to charge, and what a decline means for it.

Sources: Stripe's documentation on decline codes and advice codes, and on the card networks' rules that some declines
must never be tried again (https://docs.stripe.com/declines/codes, https://docs.stripe.com/declines/card).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from recharge.core.attempts import Try
from shared.events import BillingProfile, Card

#: The issuer says that this card will never pay: it is stopped for good, by fingerprint.
NEVER_AGAIN_CODES = frozenset(
    [
        "card_not_supported", "currency_not_supported", "fraudulent", "incorrect_number", "invalid_account",
        "invalid_number", "lost_card", "new_account_information_available", "no_action_taken", "not_permitted",
        "pickup_card", "restricted_card", "revocation_of_all_authorizations", "revocation_of_authorization",
        "security_violation", "service_not_allowed", "stolen_card", "stop_payment_order", "testmode_decline",
        "transaction_not_allowed",
    ]
)  # fmt: skip
NEVER_AGAIN_ADVICE = "do_not_try_again"
#: The card may pay again once its owner has changed something about it, but not within this attempt.
NOT_IN_THIS_ATTEMPT_CODES = frozenset(["expired_card", "incorrect_cvc", "invalid_cvc", "invalid_expiry_month"])
NOT_IN_THIS_ATTEMPT_ADVICE = "confirm_card_data"


class Verdict(StrEnum):
    """What a decline says about the card."""

    AUTHENTICATE = "authenticate"
    LATER = "later"
    NOT_IN_THIS_ATTEMPT = "not_in_this_attempt"
    NEVER_AGAIN = "never_again"


@dataclass(frozen=True, slots=True)
class DeclineCodes:
    """What Stripe told about a decline."""

    code: str | None
    decline_code: str | None
    advice_code: str | None

    @property
    def reason(self) -> str:
        """The most telling of them."""
        return self.decline_code or self.code or "card_declined"


def judge(codes: DeclineCodes) -> Verdict:
    """What becomes of the card after this decline."""
    names = {codes.code, codes.decline_code}
    if "authentication_required" in names:
        return Verdict.AUTHENTICATE
    if codes.advice_code == NEVER_AGAIN_ADVICE or names & NEVER_AGAIN_CODES:
        return Verdict.NEVER_AGAIN
    if codes.advice_code == NOT_IN_THIS_ATTEMPT_ADVICE or names & NOT_IN_THIS_ATTEMPT_CODES:
        return Verdict.NOT_IN_THIS_ATTEMPT
    return Verdict.LATER


def identity(card: Card) -> str:
    """What stays the same when a card is removed and saved again."""
    return card.fingerprint or card.payment_method


def chargeable(profile: BillingProfile, stopped: frozenset[str]) -> tuple[Card, ...]:
    """The card that its owner has chosen, if it may be charged: consent is to a card, not to whatever is saved."""
    chosen = profile.auto_recharge.payment_method if profile.auto_recharge else None
    return tuple(
        card
        for card in profile.cards
        if card.payment_method == chosen and card.usable and identity(card) not in stopped
    )


def choose(cards: Sequence[Card], tries: Iterable[Try]) -> Card | None:
    """The next card for an attempt: one that it has not tried, else the first that may be tried again."""
    tries = tuple(tries)
    left = remaining(cards, tries)
    return next(iter(untried(left, tries)), None) or next(iter(left), None)


def remaining(cards: Sequence[Card], tries: Iterable[Try]) -> tuple[Card, ...]:
    """The cards that nothing in this attempt speaks against."""
    burnt = {one.fingerprint or one.payment_method for one in tries if not one.may_repeat}
    return tuple(card for card in cards if identity(card) not in burnt)


def untried(cards: Sequence[Card], tries: Iterable[Try]) -> tuple[Card, ...]:
    """The cards that this attempt has not charged yet."""
    tried = {one.fingerprint or one.payment_method for one in tries}
    return tuple(card for card in cards if identity(card) not in tried)
