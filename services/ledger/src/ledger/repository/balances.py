"""Balances: what the API reads, what an operator sets, and what is published again."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.repository.tables import IN_TRANSFER_ORDER, balance, entry
from shared.topics import TopicName

_SET_TENANT = text("""
    INSERT INTO balance AS mine (tenant_id, version, balance, held, owed, receivable, grants_made, usage_by_purpose,
                                 usage_of_other_purposes, changed_at, overdraft_limit)
    VALUES (:tenant, 0, 0, 0, 0, 0, 0, '{}', 0, :now, coalesce(CAST(:overdraft_limit AS bigint), 0))
    ON CONFLICT (tenant_id) DO UPDATE
        SET overdraft_limit = coalesce(CAST(:overdraft_limit AS bigint), mine.overdraft_limit)
""")
_MARK_PAGE = text("""
    WITH page AS (SELECT tenant_id, version FROM balance WHERE tenant_id > :after ORDER BY tenant_id LIMIT :limit),
    marked AS (
        INSERT INTO outbox_mark (tenant_id, topic, key, version, due_at)
        SELECT tenant_id, :topic, tenant_id, version, now() FROM page
        ON CONFLICT (tenant_id, topic, key, version) DO UPDATE SET due_at = excluded.due_at
    )
    SELECT max(tenant_id) AS last, count(*) AS tenants FROM page
""")


async def read_balance(connection: AsyncConnection, tenant: str) -> Row[Any] | None:
    """The tenant's row of `balance`."""
    return (await connection.execute(select(balance).where(balance.c.tenant_id == tenant))).one_or_none()


async def read_balance_at(connection: AsyncConnection, tenant: str, at: datetime) -> Row[Any] | None:
    """The last entry that was posted at or before `at`: its `…_after` columns are the balance then."""
    return (await connection.execute(balance_at_query(tenant, at))).one_or_none()


def balance_at_query(tenant: str, at: datetime) -> Select[Any]:
    """See `read_balance_at`."""
    return (
        select(entry)
        .where(entry.c.tenant_id == tenant, entry.c.created_at <= at, IN_TRANSFER_ORDER)
        .order_by(entry.c.created_at.desc(), entry.c.version.desc())
        .limit(1)
    )


async def set_tenant(connection: AsyncConnection, tenant: str, *, overdraft_limit: int | None, now: datetime) -> None:
    """Makes the tenant's books if there are none, and sets its limits, but for those that are None. `overdraft_limit`
    is in credits."""
    await connection.execute(_SET_TENANT, {"tenant": tenant, "overdraft_limit": overdraft_limit, "now": now})


async def mark_balances(connection: AsyncConnection, *, after: str, limit: int) -> tuple[str, int]:
    """Marks a page of balances for publishing; returns its last tenant and how many they are."""
    page = (
        await connection.execute(_MARK_PAGE, {"after": after, "limit": limit, "topic": TopicName.BALANCE_CHANGED.value})
    ).one()
    return page.last, page.tenants
