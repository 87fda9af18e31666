"""Saved cards, decided from Stripe's events in any order. Pure.

A detached card stays detached: Stripe never attaches a card again once it was detached. Otherwise the event with the
newer `created` wins. `created` has whole seconds, so on a tie with different details the sweeper retrieves the card.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

#: Reasons of failed attempts, as recharge publishes them, after which Stripe is asked for the tenant's cards.
REASONS_TO_RETRIEVE_CARDS = frozenset(["card_detached", "customer_gone"])


@dataclass(frozen=True, slots=True)
class CardDetails:
    """What users may see of a card, and its fingerprint, which is the same for one card under several ids."""

    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    fingerprint: str | None


class CardState(StrEnum):
    ATTACHED = "attached"
    DETACHED = "detached"


@dataclass(frozen=True, slots=True)
class SavedCard:
    """A card of a tenant. Without `details` only its SetupIntent is known, so it is not usable.

    `seen_at` is the `created` of the event that `details` are from. `look_at` is when the sweeper retrieves it.
    `removal_requested_at` is when its owner removed it; from then on it is never charged.
    """

    payment_method: str
    state: CardState
    details: CardDetails | None
    seen_at: datetime | None
    look_at: datetime | None
    removal_requested_at: datetime | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it may be charged."""
        return self.state is CardState.ATTACHED and self.details is not None and self.removal_requested_at is None


def set_up(card: SavedCard | None, payment_method: str, *, now: datetime) -> SavedCard:
    """The card after a succeeded SetupIntent, which has no details of it. An unknown card has to be retrieved."""
    return card or SavedCard(payment_method, CardState.ATTACHED, None, None, look_at=now)


def attach(
    card: SavedCard | None, payment_method: str, details: CardDetails, *, created: datetime, now: datetime
) -> SavedCard:
    """The card after an event that shows it attached, with these details."""
    if card is None:
        return SavedCard(payment_method, CardState.ATTACHED, details, created, None)
    if card.state is CardState.DETACHED:
        return card
    if card.seen_at is None or created > card.seen_at:
        look_at = card.look_at if card.details is not None else None
        return replace(card, details=details, seen_at=created, look_at=look_at)
    if created < card.seen_at or details == card.details:
        return card
    return replace(card, look_at=now)


def apply_retrieval(card: SavedCard, details: CardDetails | None, *, asked: SavedCard, now: datetime) -> SavedCard:
    """The card after Stripe's answer; `details` are None where the card belongs to no customer of ours.

    `asked` is the card as it was before the call. If it has changed since, the answer may be older than the change, so
    the card has to be retrieved again. `seen_at` stays, so that every later event still replaces the answer.
    """
    if card.state is CardState.DETACHED or details is None:
        return detach(card)
    if card != asked:
        return replace(card, look_at=now)
    return replace(card, details=details, look_at=None)


def detach(card: SavedCard) -> SavedCard:
    """The card once Stripe has detached it. This is final."""
    return replace(card, state=CardState.DETACHED, look_at=None)


def remove(card: SavedCard, *, now: datetime) -> SavedCard:
    """The card once its owner removed it: unusable at once, and detached as soon as Stripe can be reached."""
    if card.removal_requested_at is not None:
        return card
    return replace(card, removal_requested_at=now, look_at=now)


def next_default(default: str | None, before: SavedCard | None, after: SavedCard) -> str | None:
    """The tenant's default card after one card changed. The first usable card becomes the default.

    When the default card becomes unusable, no other card takes its place: only its owner chooses what is charged
    off-session.
    """
    was_usable = before is not None and before.is_usable
    if default is None and after.is_usable and not was_usable:
        return after.payment_method
    if default == after.payment_method and not after.is_usable:
        return None
    return default


def card_changes_profile(before: SavedCard | None, after: SavedCard) -> bool:
    """Whether the change has to be published in the billing profile."""
    if before is None:
        return True
    return (before.state, before.details, before.is_usable) != (after.state, after.details, after.is_usable)
