"""Decisions about tenants, and when to decide again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.repository.rows import write_rows

_SAVE_DECISIONS = text("""
    WITH new AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
             AS new (tenant_id text, summary text, look_again_at timestamptz, is_new boolean, outcome text, reason text,
                     attempt text, request text, package text, amount_minor bigint, currency text,
                     limited_by_cap boolean, available bigint, balance_version bigint, profile_version bigint,
                     spent_minor bigint, decided_at timestamptz, detail text, purchase_left_since timestamptz)
    ), written AS (
        INSERT INTO decision (tenant_id, outcome, reason, attempt, request, package, amount_minor, currency,
                              limited_by_cap, available, balance_version, profile_version, spent_minor, decided_at,
                              detail)
        SELECT tenant_id, outcome, reason, attempt, request, package, amount_minor, currency, limited_by_cap,
               available, balance_version, profile_version, spent_minor, decided_at, detail
        FROM new WHERE is_new ORDER BY tenant_id
    )
    UPDATE profile SET last_decision = new.summary, look_again_at = new.look_again_at,
                       purchase_left_since = new.purchase_left_since
    FROM new WHERE profile.tenant_id = new.tenant_id
""")

_DECIDE_AGAIN_ABOUT_PACKAGES = text("""
    UPDATE profile SET look_again_at = :now
    FROM (SELECT tenant_id FROM profile
          WHERE split_part(last_decision, ':', 1) = 'skip'
            AND split_part(last_decision, ':', 2) IN ('currency', 'no_package_fits', 'cap_reached')
          ORDER BY tenant_id FOR UPDATE) AS waiting
    WHERE profile.tenant_id = waiting.tenant_id
""")

_DUE_TENANTS = text("""
    SELECT tenant_id FROM profile WHERE look_again_at <= :now ORDER BY look_again_at LIMIT :limit
""")

_TENANTS_WITH_REQUESTS = text("""
    SELECT DISTINCT tenant_id FROM request WHERE state = 'waiting' ORDER BY tenant_id LIMIT :limit
""")

_DECISIONS = text("""
    SELECT id, outcome, reason, attempt, request, package, amount_minor, currency, limited_by_cap, available,
           balance_version, profile_version, spent_minor, decided_at, detail
    FROM decision WHERE tenant_id = :tenant AND (CAST(:before AS bigint) IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
""")


async def save_decisions(connection: AsyncConnection, decisions: Sequence[dict[str, Any]]) -> None:
    """Writes the decisions that are new, and to each profile the last `summary` and when to decide again."""
    await write_rows(connection, _SAVE_DECISIONS, decisions)


async def decide_again_about_packages(connection: AsyncConnection, now: datetime) -> None:
    """Makes all tenants due for whom no package fitted."""
    await connection.execute(_DECIDE_AGAIN_ABOUT_PACKAGES, {"now": now})


async def due_tenants(connection: AsyncConnection, now: datetime, limit: int) -> list[str]:
    """Tenants whose decision may have changed by the passage of time, and those with a waiting request."""
    due = await connection.execute(_DUE_TENANTS, {"now": now, "limit": limit})
    waiting = await connection.execute(_TENANTS_WITH_REQUESTS, {"limit": limit})
    return sorted({row.tenant_id for row in due} | {row.tenant_id for row in waiting})


async def decisions_of(connection: AsyncConnection, tenant: str, before: int | None, limit: int) -> Sequence[Row[Any]]:
    """Decisions older than `before`."""
    rows = await connection.execute(_DECISIONS, {"tenant": tenant, "before": before, "limit": limit})
    return rows.all()
