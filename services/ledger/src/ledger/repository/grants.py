"""Grants: what the API reads, and which tenants have some to expire."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.repository.tables import credit_grant


async def read_grants(
    connection: AsyncConnection, tenant: str, *, before: int | None, limit: int, with_spent: bool
) -> Sequence[Row[Any]]:
    """The tenant's grants, newest first; without those of which nothing is left unless `with_spent`."""
    return (await connection.execute(grants_query(tenant, before=before, limit=limit, with_spent=with_spent))).all()


def grants_query(tenant: str, *, before: int | None, limit: int, with_spent: bool) -> Select[Any]:
    """See `read_grants`."""
    query = (
        select(credit_grant)
        .where(credit_grant.c.tenant_id == tenant)
        .order_by(credit_grant.c.grant_number.desc())
        .limit(limit)
    )
    if not with_spent:
        query = query.where(~credit_grant.c.spent)
    return query if before is None else query.where(credit_grant.c.grant_number < before)
