"""Locks of tenants: everything about one tenant is decided one after the other."""

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_MAKE_LOCKABLE = text("""
    INSERT INTO balance (tenant_id)
    SELECT tenant_id FROM unnest(CAST(:tenants AS text[])) AS wanted (tenant_id) ORDER BY tenant_id
    ON CONFLICT DO NOTHING
""")

_LOCK_TENANTS = text("""
    SELECT tenant_id FROM balance WHERE tenant_id = ANY (CAST(:tenants AS text[])) ORDER BY tenant_id FOR UPDATE
""")

_LOCK_FOR_CHARGING = text("""
    SELECT balance.tenant_id FROM balance JOIN profile USING (tenant_id) WHERE balance.tenant_id = :tenant
    FOR UPDATE OF balance, profile
""")


async def lock_tenants(connection: AsyncConnection, tenants: Iterable[str]) -> None:
    """Makes this transaction the only one that decides about the tenants, until it ends.

    It is every handler's first write. Else two handlers, each of which does not see the input that the other changes,
    would both decide wrongly. The lock is the tenant's balance row, which `save_balances` and `save_entries` lock too.
    """
    wanted = {"tenants": sorted(set(tenants))}
    if wanted["tenants"]:
        await connection.execute(_MAKE_LOCKABLE, wanted)
        await connection.execute(_LOCK_TENANTS, wanted)


async def lock_for_charging(connection: AsyncConnection, tenant: str) -> None:
    """Locks one tenant that has an attempt: its balance row and its profile row."""
    await connection.execute(_LOCK_FOR_CHARGING, {"tenant": tenant})
