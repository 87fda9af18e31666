"""Which saved card to charge, and what lifts the stop of a card."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from recharge.core.attempts import Try
from shared.events import BillingProfile, Card


def identity(card: Card) -> str:
    """What stays the same when a card is removed and saved again."""
    return card.fingerprint or card.payment_method


@dataclass(frozen=True, slots=True)
class CardEvidence:
    """A payment method of a Stripe customer has paid with its owner present, or was updated by its network."""

    customer: str
    payment_method: str
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class CardStop:
    """A card, by its `identity`, that was stopped after a decline of `payment_method` (None: not recorded then)."""

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
    """The card that its owner has chosen, if it may be charged: consent is to one card, not to every saved card.

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
    """The cards that no earlier try of this attempt excludes."""
    excluded = {one.card for one in tries if not one.may_repeat}
    return tuple(card for card in cards if identity(card) not in excluded)


def untried(cards: Sequence[Card], tries: Iterable[Try]) -> tuple[Card, ...]:
    """The cards that this attempt has not charged yet."""
    tried = {one.card for one in tries}
    return tuple(card for card in cards if identity(card) not in tried)
