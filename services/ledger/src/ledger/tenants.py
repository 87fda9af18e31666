"""Tenants that are announced before they buy, and their limits."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_SET = text("""
    INSERT INTO balance AS mine (tenant_id, version, balance, held, owed, receivable, grants_made, usage_by_purpose,
                                 usage_of_other_purposes, changed_at, overdraft_limit)
    VALUES (:tenant, 0, 0, 0, 0, 0, 0, '{}', 0, :now, coalesce(CAST(:overdraft_limit AS bigint), 0))
    ON CONFLICT (tenant_id) DO UPDATE
        SET overdraft_limit = coalesce(CAST(:overdraft_limit AS bigint), mine.overdraft_limit)
""")


async def set_tenant(connection: AsyncConnection, tenant: str, *, overdraft_limit: int | None, now: datetime) -> None:
    """Makes the tenant's books if there are none, and sets its limits, but for those that are None. `overdraft_limit`
    is in credits."""
    await connection.execute(_SET, {"tenant": tenant, "overdraft_limit": overdraft_limit, "now": now})
