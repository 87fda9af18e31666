"""Saved cards, decided from events in whatever order they come. Pure.

A detached card stays detached: Stripe never attaches a card again once it was detached. Otherwise the newer
`event.created` wins; on a tie with other content the card is retrieved by a job, because seconds cannot tell.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class CardDetails:
    """What a person may see of a card, and the fingerprint that tells the same card under another id."""

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
    """A card of a tenant. Without `details` it has been announced but not yet seen, so it is not usable.

    `seen_at` is the `created` of the event that `details` are from; `look_at` asks for a retrieval;
    `removal_requested_at` is when its owner removed it, from then on it is never charged.
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


def announce(card: SavedCard | None, payment_method: str, *, now: datetime) -> SavedCard:
    """A SetupIntent says that the card is saved, and no more: known cards stay, an unknown one is to be looked at."""
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


def retrieved(card: SavedCard, details: CardDetails | None, *, asked: SavedCard, now: datetime) -> SavedCard:
    """The card after Stripe was asked; None means that it belongs to nobody any more.

    `asked` is the card as it was when the question went out. If it has changed since, the answer may be older than what
    changed it, so Stripe is asked again. `seen_at` stays: the answer is newer than the events compared, and every later
    event still wins over it.
    """
    if card.state is CardState.DETACHED or details is None:
        return detach(card)
    if card != asked:
        return replace(card, look_at=now)
    return replace(card, details=details, look_at=None)


def detach(card: SavedCard) -> SavedCard:
    """The card once Stripe has let go of it. Absorbs."""
    return replace(card, state=CardState.DETACHED, look_at=None)


def remove(card: SavedCard, *, now: datetime) -> SavedCard:
    """The card once its owner removed it: unusable at once, detached at Stripe as soon as that is reached."""
    if card.removal_requested_at is not None:
        return card
    return replace(card, removal_requested_at=now, look_at=now)


def next_default(default: str | None, before: SavedCard | None, after: SavedCard) -> str | None:
    """The tenant's default card after one card changed: the first usable card becomes it, an unusable one never is.

    When the default goes, no other card takes its place: its owner chooses what is charged without being there.
    """
    was_usable = before is not None and before.is_usable
    if default is None and after.is_usable and not was_usable:
        return after.payment_method
    if default == after.payment_method and not after.is_usable:
        return None
    return default


def is_same_for_recharge(before: SavedCard | None, after: SavedCard) -> bool:
    """Whether nothing changed that recharge is told."""
    if before is None:
        return False
    return (before.state, before.details, before.is_usable) == (after.state, after.details, after.is_usable)
