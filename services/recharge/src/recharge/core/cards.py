"""Which card to charge, and what a decline means for it.

Sources: Stripe's documentation on decline codes and advice codes, and on the card networks' rules that some declines
must never be tried again (https://docs.stripe.com/declines/codes, https://docs.stripe.com/declines/card).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from recharge.core.attempts import Try
from shared.events import BillingProfile, Card

#: The issuer says that this card will never pay: it is stopped by its fingerprint, until later evidence.
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


def verdict_of(codes: DeclineCodes) -> Verdict:
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


@dataclass(frozen=True, slots=True)
class CardStop:
    """A card, by its `identity`, that was stopped after a decline of `payment_method` (None: not written down then)."""

    card: str
    payment_method: str | None
    reason: str
    stopped_at: datetime


def still_stopped(
    profile: BillingProfile, stops: Iterable[CardStop], proven_at: Mapping[str, datetime]
) -> dict[str, str]:
    """The payment methods of the profile that are stopped, with the reason.

    Later evidence lifts a stop: the payment method has paid with its owner present or was updated by its network
    (`proven_at`), or its owner has entered the card again, chosen it and consented since.
    """
    by_card = {stop.card: stop for stop in stops}
    settings = profile.auto_recharge
    consented_at = settings.consent.given_at if settings is not None and settings.consent is not None else None
    stopped: dict[str, str] = {}
    for card in profile.cards:
        stop = by_card.get(identity(card))
        if stop is None:
            continue
        seen_at = proven_at.get(card.payment_method)
        is_proven = seen_at is not None and seen_at > stop.stopped_at
        is_entered_again = stop.payment_method not in (None, card.payment_method)
        is_consented_to = (
            settings is not None
            and settings.payment_method == card.payment_method
            and consented_at is not None
            and consented_at > stop.stopped_at
        )
        if not is_proven and not (is_entered_again and is_consented_to):
            stopped[card.payment_method] = stop.reason
    return stopped


def chargeable(profile: BillingProfile, stopped: Collection[str]) -> tuple[Card, ...]:
    """The card that its owner has chosen, if it may be charged: consent is to a card, not to whatever is saved.

    `stopped` are payment methods that must not be charged.
    """
    chosen = profile.auto_recharge.payment_method if profile.auto_recharge else None
    return tuple(
        card
        for card in profile.cards
        if card.payment_method == chosen and card.usable and card.payment_method not in stopped
    )


def choose(cards: Sequence[Card], tries: Iterable[Try]) -> Card | None:
    """The next card for an attempt: one that it has not tried, else the first that may be tried again."""
    tries = tuple(tries)
    left = remaining(cards, tries)
    return next(iter(untried(left, tries)), None) or next(iter(left), None)


def remaining(cards: Sequence[Card], tries: Iterable[Try]) -> tuple[Card, ...]:
    """The cards that nothing in this attempt speaks against."""
    excluded = {one.card for one in tries if not one.may_repeat}
    return tuple(card for card in cards if identity(card) not in excluded)


def untried(cards: Sequence[Card], tries: Iterable[Try]) -> tuple[Card, ...]:
    """The cards that this attempt has not charged yet."""
    tried = {one.card for one in tries}
    return tuple(card for card in cards if identity(card) not in tried)
