"""What recharge learns from others: profiles, balances, entries, packages, requests, disputes. Newest wins."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.repository.rows import write_rows
from shared.events import BalanceChanged, BillingProfile, CreditPackage, EntryPosted, RechargeRequested
from shared.topics import TopicName

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

_SAVE_BALANCES = text("""
    INSERT INTO balance AS mine (tenant_id, version, available, receivable, receivable_since)
    SELECT tenant_id, version, available, receivable, CASE WHEN receivable > 0 THEN changed_at END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, version bigint, available bigint, receivable bigint, changed_at timestamptz)
    ORDER BY tenant_id
    ON CONFLICT (tenant_id) DO UPDATE
    SET version = excluded.version, available = excluded.available, receivable = excluded.receivable,
        receivable_since = CASE WHEN excluded.receivable > mine.receivable THEN excluded.receivable_since
                                WHEN excluded.receivable > 0 THEN mine.receivable_since END
    WHERE mine.version < excluded.version
    RETURNING tenant_id
""")

_SAVE_ENTRIES = text("""
    INSERT INTO balance AS mine (tenant_id, last_entry_version, last_purchase_at)
    SELECT tenant_id, max(balance_version), max(posted_at) FILTER (WHERE kind = 'purchase')
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, balance_version bigint, kind text, posted_at timestamptz)
    GROUP BY tenant_id ORDER BY tenant_id
    ON CONFLICT (tenant_id) DO UPDATE
    SET last_entry_version = GREATEST(mine.last_entry_version, excluded.last_entry_version),
        last_purchase_at = GREATEST(mine.last_purchase_at, excluded.last_purchase_at)
""")

_SAVE_PAYMENT_INTENTS = text("""
    INSERT INTO tenant_payment_intent (tenant_id, payment_intent)
    SELECT DISTINCT tenant_id, payment_intent
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (tenant_id text, payment_intent text)
    ORDER BY tenant_id, payment_intent
    ON CONFLICT DO NOTHING
""")

_SAVE_PACKAGES = text("""
    INSERT INTO package AS mine (package, version, package_event)
    SELECT package, version, package_event
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (package text, version bigint, package_event jsonb)
    ORDER BY package
    ON CONFLICT (package) DO UPDATE SET version = excluded.version, package_event = excluded.package_event
    WHERE mine.version < excluded.version
    RETURNING package
""")

# What was asked for before the credits of the last charge had come was answered by them.
_SAVE_REQUESTS = text("""
    INSERT INTO request (tenant_id, request, requested_by, requested_at, expires_at, state, reason)
    SELECT new.tenant_id, new.request, requested_by, requested_at, expires_at,
           CASE WHEN last.has_answered THEN 'refused' ELSE 'waiting' END,
           CASE WHEN last.has_answered THEN 'need_already_served' END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, request text, requested_by text, requested_at timestamptz, expires_at timestamptz)
    LEFT JOIN LATERAL (
        SELECT state = 'credited' AND changed_at >= new.requested_at AS has_answered FROM attempt
        WHERE attempt.tenant_id = new.tenant_id ORDER BY created_at DESC, attempt DESC LIMIT 1
    ) AS last ON true
    ORDER BY new.tenant_id, new.request
    ON CONFLICT DO NOTHING
    RETURNING tenant_id
""")

_FINISH_REQUESTS = text("""
    UPDATE request SET state = new.state, reason = new.reason, attempt = new.attempt
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, request text, state text, reason text, attempt text)
    WHERE request.tenant_id = new.tenant_id AND request.request = new.request AND request.state = 'waiting'
""")

_ANSWER_WAITING_REQUESTS = text("""
    UPDATE request SET state = 'refused', reason = 'need_already_served'
    WHERE tenant_id = ANY (CAST(:tenants AS text[])) AND state = 'waiting'
""")

# Closed is for good; among the others the newer event wins.
_SAVE_DISPUTES = text("""
    INSERT INTO dispute AS mine (dispute, payment_intent, status, opened_at, seen_at, closed_at)
    SELECT dispute, payment_intent, status, seen_at, seen_at, closed_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (dispute text, payment_intent text, status text, seen_at timestamptz, closed_at timestamptz)
    ORDER BY dispute
    ON CONFLICT (dispute) DO UPDATE
    SET status = CASE WHEN mine.closed_at IS NOT NULL THEN mine.status
                      WHEN excluded.closed_at IS NOT NULL OR excluded.seen_at >= mine.seen_at THEN excluded.status
                      ELSE mine.status END,
        opened_at = LEAST(mine.opened_at, excluded.opened_at),
        seen_at = GREATEST(mine.seen_at, excluded.seen_at),
        closed_at = COALESCE(mine.closed_at, excluded.closed_at)
""")

_TENANTS_OF_PAYMENT_INTENTS = text("""
    SELECT DISTINCT tenant_id FROM tenant_payment_intent
    WHERE payment_intent = ANY (CAST(:payment_intents AS text[]))
""")

_FREEZE = text("""
    INSERT INTO profile AS mine (tenant_id, frozen_reason) VALUES (:tenant, :reason)
    ON CONFLICT (tenant_id) DO UPDATE SET frozen_reason = COALESCE(mine.frozen_reason, excluded.frozen_reason)
""")

_FREEZE_CUSTOMER = text("""
    UPDATE profile SET frozen_reason = COALESCE(frozen_reason, :reason) WHERE stripe_customer = :customer
""")

# What could not be read about a PaymentIntent whose owner was not known then has frozen nobody by name: it counts as a
# dispute of whoever owns the PaymentIntent now.
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

_SAVE_PROGRESS = text("""
    INSERT INTO topic_progress AS mine (topic, partition, caught_up_at)
    SELECT topic, partition, caught_up_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (topic text, partition int, caught_up_at timestamptz)
    ORDER BY topic, partition
    ON CONFLICT (topic, partition) DO UPDATE SET caught_up_at = GREATEST(mine.caught_up_at, excluded.caught_up_at)
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


async def save_balances(connection: AsyncConnection, balances: Iterable[BalanceChanged]) -> list[str]:
    """Keeps the newest balance of each tenant; returns the tenants whose balance changed."""
    newest: dict[str, BalanceChanged] = {}
    for balance in balances:
        if balance.tenant not in newest or newest[balance.tenant].version < balance.version:
            newest[balance.tenant] = balance
    rows = [
        {
            "tenant_id": each.tenant,
            "version": each.version,
            "available": each.available,
            "receivable": each.receivable,
            "changed_at": each.changed_at,
        }
        for each in newest.values()
    ]
    return [row.tenant_id for row in await write_rows(connection, _SAVE_BALANCES, rows)]


async def save_entries(connection: AsyncConnection, entries: Sequence[EntryPosted]) -> None:
    """Notes which version of the balance must be waited for, and which PaymentIntents are whose."""
    rows = [
        {
            "tenant_id": entry.tenant,
            "balance_version": entry.balance_version,
            "kind": entry.kind,
            "posted_at": entry.posted_at,
        }
        for entry in entries
    ]
    await write_rows(connection, _SAVE_ENTRIES, rows)
    await save_payment_intents(
        connection, [(entry.tenant, entry.payment_intent) for entry in entries if entry.payment_intent]
    )


async def save_payment_intents(connection: AsyncConnection, owned: Iterable[tuple[str, str]]) -> None:
    """Notes whose PaymentIntents these are: (tenant, PaymentIntent)."""
    rows = [{"tenant_id": tenant, "payment_intent": payment_intent} for tenant, payment_intent in owned]
    await write_rows(connection, _SAVE_PAYMENT_INTENTS, rows)


async def save_packages(connection: AsyncConnection, packages: Iterable[CreditPackage]) -> list[str]:
    """Keeps the newest version of each package; returns the packages that changed."""
    newest: dict[str, CreditPackage] = {}
    for package in packages:
        if package.package not in newest or newest[package.package].version < package.version:
            newest[package.package] = package
    rows = [{"package": each.package, "version": each.version, "package_event": each} for each in newest.values()]
    return [row.package for row in await write_rows(connection, _SAVE_PACKAGES, rows)]


async def save_requests(connection: AsyncConnection, requests: Iterable[RechargeRequested]) -> list[str]:
    """Keeps requests not seen before; returns their tenants."""
    rows = [
        {
            "tenant_id": each.tenant,
            "request": each.request,
            "requested_by": each.requested_by,
            "requested_at": each.requested_at,
            "expires_at": each.expires_at,
        }
        for each in requests
    ]
    return [row.tenant_id for row in await write_rows(connection, _SAVE_REQUESTS, rows)]


async def finish_requests(connection: AsyncConnection, closed: Sequence[dict[str, Any]]) -> None:
    """Ends waiting requests: rows of tenant_id, request, state, reason, attempt."""
    await write_rows(connection, _FINISH_REQUESTS, closed)


async def answer_waiting_requests(connection: AsyncConnection, tenants: Iterable[str]) -> None:
    """Credits of a charge have come: they answer all that was asked for until then."""
    wanted = sorted(set(tenants))
    if wanted:
        await connection.execute(_ANSWER_WAITING_REQUESTS, {"tenants": wanted})


async def save_disputes(connection: AsyncConnection, disputes: Sequence[dict[str, Any]]) -> list[str]:
    """Keeps disputes (dispute, payment_intent, status, seen_at, closed_at); returns the tenants known to own them."""
    newest: dict[str, dict[str, Any]] = {}
    for row in sorted(disputes, key=lambda row: (row["closed_at"] is not None, row["seen_at"])):
        newest[row["dispute"]] = row
    await write_rows(connection, _SAVE_DISPUTES, list(newest.values()))
    found = await connection.execute(
        _TENANTS_OF_PAYMENT_INTENTS, {"payment_intents": sorted({row["payment_intent"] for row in disputes})}
    )
    return [row.tenant_id for row in found]


async def freeze_tenant(connection: AsyncConnection, tenant: str, reason: str) -> None:
    """No charge for this tenant until an operator lifts it."""
    await connection.execute(_FREEZE, {"tenant": tenant, "reason": reason})


async def freeze_customer(connection: AsyncConnection, customer: str, reason: str) -> None:
    """The same for whoever has this Stripe customer."""
    await connection.execute(_FREEZE_CUSTOMER, {"customer": customer, "reason": reason})


async def unfreeze(connection: AsyncConnection, tenant: str) -> bool:
    """Lifts a tenant's freeze, and the suspension for an order that Stripe refused, and has it decided about again;
    False where there was neither."""
    return (await connection.execute(_UNFREEZE, {"tenant": tenant})).rowcount > 0


async def save_progress(connection: AsyncConnection, caught_up: Iterable[tuple[TopicName, int, datetime]]) -> None:
    """Notes when each partition was last seen read to its end."""
    rows = [{"topic": topic, "partition": partition, "caught_up_at": at} for topic, partition, at in caught_up]
    await write_rows(connection, _SAVE_PROGRESS, rows)
