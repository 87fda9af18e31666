"""A tenant's profile row (lock, version, default card), and the whole billing profile as published to recharge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.events import AutoRecharge, BillingProfile, Card, Consent, DomainEvent, OpenPurchase
from shared.outbox import Transaction
from shared.topics import TopicName


@dataclass(frozen=True, slots=True)
class DefaultRepair:
    """A customer whose default card at Stripe may differ from the one in our profile."""

    tenant: str
    stripe_customer: str
    default_payment_method: str | None


async def lock(connection: AsyncConnection, tenants: Iterable[str]) -> dict[str, str | None]:
    """Locks the tenants' profiles, in order, and returns the default card of each. Read their rows only afterwards."""
    ordered = sorted(set(tenants))
    await connection.execute(_INSERT, {"tenants": ordered})
    rows = await connection.execute(_LOCK, {"tenants": ordered})
    return {row.tenant_id: row.default_payment_method for row in rows}


async def load_default(connection: AsyncConnection, tenant: str) -> str | None:
    """The tenant's default card, if one is chosen."""
    return (await connection.execute(_DEFAULT, {"tenant": tenant})).scalar_one_or_none()


async def increment_versions(transaction: Transaction, tenants: Iterable[str]) -> None:
    """Gives profiles their next version, which locks them, and publishes them after the commit."""
    ordered = sorted(set(tenants))
    if not ordered:
        return
    rows = await transaction.connection.execute(_NEXT_VERSION, {"tenants": ordered, "now": transaction.now})
    for row in rows:
        transaction.mark(TopicName.BILLING_PROFILE_CHANGED, row.tenant_id, row.version, tenant=row.tenant_id)


async def set_defaults(connection: AsyncConnection, defaults: Mapping[str, str | None], now: datetime) -> None:
    """Sets default cards of locked profiles, and has the sweeper set them at Stripe."""
    if defaults:
        await connection.execute(
            _SET_DEFAULTS, {"tenants": list(defaults), "cards": list(defaults.values()), "now": now}
        )


async def request_default_repair(connection: AsyncConnection, tenants: Iterable[str], now: datetime) -> None:
    """Has the sweeper set the default cards of these tenants at Stripe."""
    await connection.execute(_REQUEST_REPAIR, {"tenants": sorted(set(tenants)), "now": now})


async def claim_default_repairs(connection: AsyncConnection, now: datetime, limit: int) -> list[DefaultRepair]:
    """Claims due repairs: they are due again after two minutes, in case this process dies."""
    rows = await connection.execute(_CLAIM_REPAIRS, {"now": now, "limit": limit})
    return [DefaultRepair(row.tenant_id, row.stripe_customer, row.default_payment_method) for row in rows]


async def finish_default_repair(connection: AsyncConnection, repair: DefaultRepair) -> None:
    """Ends the repair, unless our default card has changed meanwhile."""
    await connection.execute(_REPAIRED, {"tenant": repair.tenant, "card": repair.default_payment_method})


async def load_billing_profiles(
    connection: AsyncConnection, tenants: Sequence[str]
) -> Mapping[str, tuple[int, DomainEvent]]:
    """The current profiles by tenant. One statement reads them, so that each content belongs to its version."""
    rows = await connection.execute(_LOAD, {"tenants": list(tenants)})
    return {row.tenant_id: (row.version, _profile(row)) for row in rows}


async def mark_all_for_publishing(connection: AsyncConnection) -> int:
    """Marks every profile and package for publishing; returns how many."""
    return (await connection.execute(_MARK_ALL)).rowcount


def _profile(row: Any) -> BillingProfile:
    settings: dict[str, Any] | None = row.settings
    return BillingProfile(
        tenant=row.tenant_id,
        version=row.version,
        stripe_customer=row.stripe_customer,
        cards=tuple(Card.model_validate(card) for card in row.cards),
        default_payment_method=row.default_payment_method,
        auto_recharge=None
        if settings is None
        else AutoRecharge(
            enabled=settings["enabled"],
            threshold_credits=settings["threshold_credits"],
            amount_minor=settings["amount_minor"],
            currency=settings["currency"],
            monthly_cap_minor=settings["monthly_cap_minor"],
            consent=None if row.consent is None else Consent.model_validate(row.consent),
            payment_method=settings["payment_method"],
        ),
        open_purchases=tuple(each["purchase"] for each in row.purchases),
        purchases=tuple(OpenPurchase.model_validate(each) for each in row.purchases),
        credited_in_version=row.credited_in_version,
        changed_at=row.changed_at,
    )


_INSERT = text("""
    INSERT INTO profile (tenant_id) SELECT * FROM unnest(CAST(:tenants AS text[])) AS tenant ORDER BY tenant
    ON CONFLICT DO NOTHING
""")

_LOCK = text("""
    SELECT tenant_id, default_payment_method FROM profile WHERE tenant_id = ANY(:tenants) ORDER BY tenant_id FOR UPDATE
""")

_NEXT_VERSION = text("""
    UPDATE profile SET version = version + 1, changed_at = :now
    FROM (SELECT tenant_id FROM profile WHERE tenant_id = ANY(:tenants) ORDER BY tenant_id FOR UPDATE) AS locked
    WHERE profile.tenant_id = locked.tenant_id
    RETURNING profile.tenant_id, profile.version
""")

_SET_DEFAULTS = text("""
    UPDATE profile SET default_payment_method = new.card, default_repair_at = :now
    FROM unnest(CAST(:tenants AS text[]), CAST(:cards AS text[])) AS new (tenant, card)
    WHERE profile.tenant_id = new.tenant
""")

_REQUEST_REPAIR = text("UPDATE profile SET default_repair_at = :now WHERE tenant_id = ANY(:tenants)")

_CLAIM_REPAIRS = text("""
    WITH due AS (
        SELECT tenant_id FROM profile WHERE default_repair_at <= :now ORDER BY default_repair_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE profile SET default_repair_at =  -- nothing to repair where there is no customer
            CASE WHEN customer.stripe_customer IS NULL THEN NULL
            ELSE CAST(:now AS timestamptz) + interval '2 minutes' END
        FROM due LEFT JOIN customer USING (tenant_id) WHERE profile.tenant_id = due.tenant_id
        RETURNING profile.tenant_id, profile.default_payment_method, customer.stripe_customer
    )
    SELECT * FROM claimed WHERE stripe_customer IS NOT NULL
""")

_REPAIRED = text("""
    UPDATE profile SET default_repair_at = NULL
    WHERE tenant_id = :tenant AND default_payment_method IS NOT DISTINCT FROM CAST(:card AS text)
""")

_LOAD = text("""
    SELECT profile.tenant_id, profile.version, profile.default_payment_method, profile.changed_at,
        customer.stripe_customer,
        (SELECT coalesce(json_agg(json_build_object(
                'payment_method', card.payment_method, 'brand', card.brand, 'last4', card.last4,
                'exp_month', card.exp_month, 'exp_year', card.exp_year, 'fingerprint', card.fingerprint,
                'usable', card.has_details AND card.removal_requested_at IS NULL)
            ORDER BY card.payment_method), '[]')
         FROM card WHERE card.tenant_id = profile.tenant_id AND card.state = 'attached') AS cards,
        (SELECT row_to_json(auto_recharge) FROM auto_recharge
         WHERE auto_recharge.tenant_id = profile.tenant_id) AS settings,
        (SELECT json_build_object('text_version', consent.text_version, 'given_by', consent.given_by,
                'given_at', consent.given_at)
         FROM auto_recharge JOIN consent USING (tenant_id, consent_id)
         WHERE auto_recharge.tenant_id = profile.tenant_id) AS consent,
        (SELECT coalesce(json_agg(json_build_object('purchase', purchase_id, 'since', state_since,
                'state', CASE state WHEN 'created' THEN 'open' ELSE state END) ORDER BY purchase_id), '[]') FROM (
            SELECT purchase_id, state, state_since FROM purchase
            WHERE purchase.tenant_id = profile.tenant_id AND purchase.state IN ('created', 'open', 'processing')
            UNION ALL  -- paid, but not yet in the balance on which recharge decides
            SELECT purchase_id, state, state_since FROM purchase
            WHERE purchase.tenant_id = profile.tenant_id AND purchase.state = 'succeeded' AND NOT EXISTS (
                SELECT FROM entry WHERE entry.tenant_id = purchase.tenant_id AND entry.door = 'stripe'
                    AND entry.reference = purchase.payment_intent)) AS unfinished
        ) AS purchases,
        coalesce((SELECT balance_version FROM entry WHERE entry.tenant_id = profile.tenant_id AND balance_version > 0
                  ORDER BY posted_at DESC, reference DESC LIMIT 1), 0) AS credited_in_version
    FROM profile LEFT JOIN customer USING (tenant_id)
    WHERE profile.tenant_id = ANY(:tenants) AND profile.version > 0
""")

_MARK_ALL = text("""
    INSERT INTO outbox_mark (tenant_id, topic, key, version, due_at)
    SELECT tenant_id, 'payments.billing-profile-changed', tenant_id, version, now() FROM profile WHERE version > 0
    UNION ALL
    SELECT '', 'payments.catalog-changed', package_id, version, now() FROM package
    ON CONFLICT (tenant_id, topic, key, version) DO UPDATE SET due_at = now()
""")

_DEFAULT = text("SELECT default_payment_method FROM profile WHERE tenant_id = :tenant")
