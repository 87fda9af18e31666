"""What a tenant reads of its own, newest first, by cursor. Row-level security decides whose rows these are."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

_DECISIONS = text("""
    SELECT id, outcome, reason, attempt, request, package, amount_minor, currency, limited_by_cap, available,
           balance_version, profile_version, spent_minor, decided_at, detail
    FROM decision WHERE tenant_id = :tenant AND (CAST(:before AS bigint) IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
""")

# Ids of attempts sort by the time they were made.
_ATTEMPTS = text("""
    SELECT attempt, state, trigger, reason, action_required, amount_minor, currency, credits, package, limited_by_cap,
           payment_intent, profile_version, n AS tries, created_at, changed_at
    FROM attempt WHERE tenant_id = :tenant AND (CAST(:before AS text) IS NULL OR attempt < :before)
    ORDER BY attempt DESC LIMIT :limit
""")


async def decisions_of(connection: AsyncConnection, tenant: str, before: int | None, limit: int) -> Sequence[Row[Any]]:
    """Decisions older than `before`."""
    rows = await connection.execute(_DECISIONS, {"tenant": tenant, "before": before, "limit": limit})
    return rows.all()


async def attempts_of(connection: AsyncConnection, tenant: str, before: str | None, limit: int) -> Sequence[Row[Any]]:
    """Attempts made before the attempt `before`."""
    rows = await connection.execute(_ATTEMPTS, {"tenant": tenant, "before": before, "limit": limit})
    return rows.all()
