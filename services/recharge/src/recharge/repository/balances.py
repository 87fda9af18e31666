"""Balances and entries as the ledger publishes them, and when a need was served."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.repository.payment_intents import save_payment_intents
from recharge.repository.rows import write_rows
from shared.events import BalanceChanged, EntryPosted

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

_CLEAR_SERVED_NEED = text("""
    UPDATE balance SET served_available = NULL, served_at = NULL
    WHERE tenant_id = ANY (CAST(:tenants AS text[])) AND served_available IS NOT NULL
""")

_SAVE_SERVED_NEED = text("""
    UPDATE balance SET served_available = new.available, served_at = new.served_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (tenant_id text, available bigint, served_at timestamptz)
    WHERE balance.tenant_id = new.tenant_id
""")


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
    """Records which version of the balance to wait for, and which tenant owns which PaymentIntent."""
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


async def clear_served_need(connection: AsyncConnection, tenants: Sequence[str]) -> None:
    """These balances have been at or above their thresholds: what falls below them later is a new need."""
    if tenants:
        await connection.execute(_CLEAR_SERVED_NEED, {"tenants": sorted(tenants)})


async def save_served_need(connection: AsyncConnection, served: Sequence[dict[str, Any]]) -> None:
    """An automatic charge has been credited for the need that began at this balance: rows of tenant_id, available,
    served_at."""
    await write_rows(connection, _SAVE_SERVED_NEED, served)
