"""Billing profiles as payments publishes them, and what stops recharge for a tenant: freezes and suspensions."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.cards import identity
from recharge.repository.rows import write_rows
from shared.events import BillingProfile

_SAVE_PROFILES = text("""
    INSERT INTO profile AS mine (tenant_id, version, profile, stripe_customer)
    SELECT tenant_id, version, profile, stripe_customer
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, version bigint, profile jsonb, stripe_customer text)
    ORDER BY tenant_id
    ON CONFLICT (tenant_id) DO UPDATE
    SET version = excluded.version, profile = excluded.profile, stripe_customer = excluded.stripe_customer
    WHERE mine.version < excluded.version
    RETURNING tenant_id
""")

_TENANTS_OF_CUSTOMERS = text("""
    SELECT tenant_id FROM profile WHERE stripe_customer = ANY (CAST(:customers AS text[]))
""")

_FREEZE = text("""
    INSERT INTO profile AS mine (tenant_id, frozen_reason) VALUES (:tenant, :reason)
    ON CONFLICT (tenant_id) DO UPDATE SET frozen_reason = COALESCE(mine.frozen_reason, excluded.frozen_reason)
""")

_FREEZE_CUSTOMER = text("""
    UPDATE profile SET frozen_reason = COALESCE(frozen_reason, :reason) WHERE stripe_customer = :customer
""")

# An unreadable event about a PaymentIntent whose owner was not known then has frozen no tenant. It counts as a dispute
# of the tenant that owns the PaymentIntent now.
_UNFREEZE = text("""
    WITH closed AS (
        UPDATE dispute SET closed_at = now() FROM tenant_payment_intent AS owned
        WHERE dispute.status = 'unreadable' AND dispute.closed_at IS NULL
          AND owned.payment_intent = dispute.payment_intent AND owned.tenant_id = :tenant
        RETURNING dispute.dispute
    )
    UPDATE profile SET frozen_reason = NULL, look_again_at = now(),
        suspended_at = CASE WHEN suspended_reason IS DISTINCT FROM 'charge_refused' THEN suspended_at END
    WHERE tenant_id = :tenant AND (frozen_reason IS NOT NULL OR EXISTS (SELECT FROM closed)
                                   OR (suspended_at IS NOT NULL AND suspended_reason = 'charge_refused'))
""")

_SUSPEND = text("""
    UPDATE profile SET suspended_at = :now, suspended_reason = :reason, suspended_cards = CAST(:cards AS text[])
    WHERE tenant_id = :tenant
""")


async def save_profiles(connection: AsyncConnection, profiles: Iterable[BillingProfile]) -> list[str]:
    """Keeps the newest profile of each tenant; returns the tenants whose profile changed."""
    newest: dict[str, BillingProfile] = {}
    for profile in profiles:
        if profile.tenant not in newest or newest[profile.tenant].version < profile.version:
            newest[profile.tenant] = profile
    rows = [
        {"tenant_id": each.tenant, "version": each.version, "profile": each, "stripe_customer": each.stripe_customer}
        for each in newest.values()
    ]
    return [row.tenant_id for row in await write_rows(connection, _SAVE_PROFILES, rows)]


async def tenants_of_customers(connection: AsyncConnection, customers: Iterable[str]) -> list[str]:
    """Whose Stripe customers these are; those unknown are left out."""
    rows = await connection.execute(_TENANTS_OF_CUSTOMERS, {"customers": sorted(set(customers))})
    return [row.tenant_id for row in rows]


async def freeze_tenant(connection: AsyncConnection, tenant: str, reason: str) -> None:
    """Freezes a tenant: it is not charged until an operator lifts that."""
    await connection.execute(_FREEZE, {"tenant": tenant, "reason": reason})


async def freeze_customer(connection: AsyncConnection, customer: str, reason: str) -> None:
    """Freezes the tenant that has this Stripe customer."""
    await connection.execute(_FREEZE_CUSTOMER, {"customer": customer, "reason": reason})


async def unfreeze(connection: AsyncConnection, tenant: str) -> bool:
    """Lifts a tenant's freeze and the suspension for an order that Stripe refused, and makes it due for a decision.
    False if there was neither."""
    return (await connection.execute(_UNFREEZE, {"tenant": tenant})).rowcount > 0


async def suspend(
    connection: AsyncConnection,
    tenant: str,
    profile: BillingProfile,
    reason: str,
    now: datetime,
    *,
    cards: frozenset[str] | None = None,
) -> None:
    """Suspends recharge until its owner consents again or chooses a card that is not in `cards` (None: all saved
    now)."""
    known = cards if cards is not None else {identity(card) for card in profile.cards}
    await connection.execute(_SUSPEND, {"tenant": tenant, "reason": reason, "now": now, "cards": sorted(known)})
