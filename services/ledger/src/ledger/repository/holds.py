"""Holds: what the API reads."""

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.repository.tables import hold


async def read_hold(connection: AsyncConnection, tenant: str, reference: str) -> Row[Any] | None:
    """One hold of the tenant."""
    query = select(hold).where(hold.c.tenant_id == tenant, hold.c.reference == reference)
    return (await connection.execute(query)).one_or_none()
