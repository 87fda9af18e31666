"""Saved cards, and locks that make two workers take turns on a card whose tenant may not be known yet."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.cards import CardDetails, CardState, SavedCard

#: Events may come for 30 days: that is how long Stripe and the topic keep them.
LOCKS_KEPT_FOR = timedelta(days=35)
#: Longer than calling Stripe and recording its response may take. By then the worker that claimed the card has failed.
CLAIMED_FOR = timedelta(seconds=60)
#: Tenant and payment method.
CardKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class DueCard:
    """A card to be retrieved from Stripe, or detached there."""

    tenant: str
    stripe_customer: str | None
    card: SavedCard


async def lock(connection: AsyncConnection, payment_methods: Iterable[str]) -> set[str]:
    """Locks the payment methods, in order, and returns those known to be detached. Read cards only afterwards."""
    ordered = sorted(set(payment_methods))
    if not ordered:
        return set()
    await connection.execute(_INSERT_LOCKS, {"payment_methods": ordered})
    rows = await connection.execute(_LOCK, {"payment_methods": ordered})
    return {row.payment_method for row in rows if row.detached_at is not None}


async def mark_detached(connection: AsyncConnection, payment_methods: Iterable[str], now: datetime) -> None:
    """Records on the locks that these are detached, for older events that come later."""
    ordered = sorted(set(payment_methods))
    if ordered:
        await connection.execute(_MARK_DETACHED, {"payment_methods": ordered, "now": now})


async def tenants_of(connection: AsyncConnection, payment_methods: Iterable[str]) -> dict[str, str]:
    """The tenants of these cards; unknown cards are left out."""
    rows = await connection.execute(_TENANTS, {"payment_methods": sorted(set(payment_methods))})
    return {row.payment_method: row.tenant_id for row in rows}


async def load(connection: AsyncConnection, keys: Iterable[CardKey]) -> dict[CardKey, SavedCard]:
    """The cards by key; unknown ones are left out."""
    ordered = sorted(set(keys))
    rows = await connection.execute(_LOAD, {"tenants": [key[0] for key in ordered], "ids": [key[1] for key in ordered]})
    return {(row.tenant_id, row.payment_method): _card(row) for row in rows}


async def load_attached(connection: AsyncConnection, tenants: Iterable[str]) -> dict[CardKey, SavedCard]:
    """All cards of the tenants that are attached at Stripe."""
    rows = await connection.execute(_ATTACHED, {"tenants": sorted(set(tenants))})
    return {(row.tenant_id, row.payment_method): _card(row) for row in rows}


async def schedule_retrieval_of_attached(connection: AsyncConnection, tenants: Iterable[str], now: datetime) -> None:
    """Has the sweeper retrieve all attached cards of the tenants, whose profiles are locked."""
    await connection.execute(_SCHEDULE_RETRIEVAL_OF_ATTACHED, {"tenants": sorted(set(tenants)), "now": now})


async def save(connection: AsyncConnection, cards: Mapping[CardKey, SavedCard]) -> None:
    """Writes new and changed cards; their profiles are locked. Needs the worker's role."""
    if cards:
        await connection.execute(_SAVE, _columns(cards))


async def update(connection: AsyncConnection, tenant: str, card: SavedCard) -> None:
    """Writes a changed card of a tenant whose profile is locked."""
    await connection.execute(
        _UPDATE,
        {
            "tenant": tenant,
            "payment_method": card.payment_method,
            "state": card.state,
            "look_at": card.look_at,
            "removal_requested_at": card.removal_requested_at,
        },
    )


async def claim_due(connection: AsyncConnection, now: datetime, limit: int) -> Sequence[DueCard]:
    """Claims due cards: they are due again after `CLAIMED_FOR`, in case this process dies."""
    rows = await connection.execute(_CLAIM_DUE, {"now": now, "until": now + CLAIMED_FOR, "limit": limit})
    return [DueCard(row.tenant_id, row.stripe_customer, _card(row)) for row in rows]


async def delete_old_locks(connection: AsyncConnection, now: datetime) -> None:
    """Deletes locks that are older than every event that may still come."""
    await connection.execute(_DELETE_OLD_LOCKS, {"before": now - LOCKS_KEPT_FOR})


def _card(row: Any) -> SavedCard:
    details = CardDetails(row.brand, row.last4, row.exp_month, row.exp_year, row.fingerprint)
    return SavedCard(
        payment_method=row.payment_method,
        state=CardState(row.state),
        details=details if row.has_details else None,
        seen_at=row.seen_at,
        look_at=row.look_at,
        removal_requested_at=row.removal_requested_at,
    )


_NO_DETAILS = CardDetails(None, None, None, None, None)


def _columns(cards: Mapping[CardKey, SavedCard]) -> dict[str, list[Any]]:
    ordered = sorted(cards.items(), key=lambda item: item[0])
    details = [card.details or _NO_DETAILS for _, card in ordered]
    return {
        "tenants": [tenant for (tenant, _), _ in ordered],
        "ids": [card.payment_method for _, card in ordered],
        "states": [card.state for _, card in ordered],
        "has_details": [card.details is not None for _, card in ordered],
        "brands": [each.brand for each in details],
        "last4s": [each.last4 for each in details],
        "exp_months": [each.exp_month for each in details],
        "exp_years": [each.exp_year for each in details],
        "fingerprints": [each.fingerprint for each in details],
        "seen": [card.seen_at for _, card in ordered],
        "looks": [card.look_at for _, card in ordered],
        "removals": [card.removal_requested_at for _, card in ordered],
    }


_INSERT_LOCKS = text("""
    INSERT INTO payment_method_lock (payment_method)
    SELECT * FROM unnest(CAST(:payment_methods AS text[])) AS wanted ORDER BY wanted
    ON CONFLICT DO NOTHING
""")

_LOCK = text("""
    SELECT payment_method, detached_at FROM payment_method_lock WHERE payment_method = ANY(:payment_methods)
    ORDER BY payment_method FOR UPDATE
""")

_MARK_DETACHED = text("""
    UPDATE payment_method_lock SET detached_at = coalesce(detached_at, :now)
    WHERE payment_method = ANY(:payment_methods)
""")

_TENANTS = text("SELECT tenant_id, payment_method FROM card WHERE payment_method = ANY(:payment_methods)")

_LOAD = text("""
    SELECT card.* FROM card
    JOIN unnest(CAST(:tenants AS text[]), CAST(:ids AS text[])) AS wanted (tenant, id)
        ON card.tenant_id = wanted.tenant AND card.payment_method = wanted.id
""")

_ATTACHED = text("""
    SELECT * FROM card WHERE tenant_id = ANY(:tenants) AND state = 'attached' ORDER BY tenant_id, payment_method
""")

_SCHEDULE_RETRIEVAL_OF_ATTACHED = text("""
    UPDATE card SET look_at = :now WHERE tenant_id = ANY(:tenants) AND state = 'attached' AND look_at IS NULL
""")

_SAVE = text("""
    INSERT INTO card (tenant_id, payment_method, state, has_details, brand, last4, exp_month, exp_year, fingerprint,
                      seen_at, look_at, removal_requested_at)
    SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:ids AS text[]), CAST(:states AS text[]),
        CAST(:has_details AS boolean[]), CAST(:brands AS text[]), CAST(:last4s AS text[]),
        CAST(:exp_months AS integer[]), CAST(:exp_years AS integer[]), CAST(:fingerprints AS text[]),
        CAST(:seen AS timestamptz[]), CAST(:looks AS timestamptz[]), CAST(:removals AS timestamptz[]))
    ON CONFLICT (tenant_id, payment_method) DO UPDATE SET
        state = excluded.state, has_details = excluded.has_details, brand = excluded.brand, last4 = excluded.last4,
        exp_month = excluded.exp_month, exp_year = excluded.exp_year, fingerprint = excluded.fingerprint,
        seen_at = excluded.seen_at, look_at = excluded.look_at, removal_requested_at = excluded.removal_requested_at
""")

_UPDATE = text("""
    UPDATE card SET state = :state, look_at = :look_at, removal_requested_at = :removal_requested_at
    WHERE tenant_id = :tenant AND payment_method = :payment_method
""")

_CLAIM_DUE = text("""
    WITH due AS (
        SELECT tenant_id, payment_method FROM card WHERE look_at <= :now ORDER BY look_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE card SET look_at = :until
        FROM due WHERE card.tenant_id = due.tenant_id AND card.payment_method = due.payment_method
        RETURNING card.*
    )
    SELECT claimed.*, customer.stripe_customer FROM claimed LEFT JOIN customer USING (tenant_id)
""")

_DELETE_OLD_LOCKS = text("DELETE FROM payment_method_lock WHERE created_at < :before")
