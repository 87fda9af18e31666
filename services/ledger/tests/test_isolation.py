"""A tenant's role reads nothing of another tenant, in whatever relation the database has."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.jobs.archive import archive_old_transfers
from shared.clock import utc_now
from shared.database import make_engine, tenant_transaction

from .books import Books
from .builders import debit, hold, purchase, refund, unapplied, withdrawn

TENANTS = ("acme", "bravo")

#: Every table, partition, view and materialized view outside PostgreSQL's own schemas, and whether it has a tenant.
RELATIONS = """
    SELECT c.relname AS name, c.relkind::text AS kind, c.relrowsecurity AND c.relforcerowsecurity AS is_forced,
           coalesce(c.reloptions::text[] && ARRAY['security_invoker=true', 'security_invoker=on'], false) AS is_invoker,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') AS has_tenant
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND n.nspname NOT LIKE 'pg_toast%' AND n.nspname NOT LIKE 'pg_temp%'
    ORDER BY 1
"""


async def fill(books: Books) -> None:
    """Puts rows of both tenants into every table."""
    for tenant in TENANTS:
        await books.post(
            purchase(f"pi_{tenant}", tenant=tenant), debit(tenant=tenant),
            refund(f"re_{tenant}", 100, payment_intent=f"pi_{tenant}"),
            withdrawn(f"dp_{tenant}", 100, payment_intent=f"pi_{tenant}"), unapplied(f"pi_no_{tenant}", tenant=tenant),
            hold(tenant=tenant),
        )  # fmt: skip
    for tenant in TENANTS:  # a tenant's time does not go back: these are others, whose old entries are made theirs
        await books.post(purchase(f"pi_old_{tenant}", tenant=f"old-{tenant}"), now=utc_now() - timedelta(days=500))
    assert await archive_old_transfers(books.engine) == 2
    superuser = make_engine(books.database.superuser_url, application_name="ledger-test-fill", pool_size=1)
    async with superuser.begin() as connection:
        await connection.execute(text("UPDATE transfer_archive SET tenant_id = substr(tenant_id, 5)"))
    await superuser.dispose()
    async with books.engine.begin() as connection:
        for tenant in TENANTS:
            await connection.execute(
                text("INSERT INTO published_state VALUES (:tenant, 'topic', :tenant, 1)"), {"tenant": tenant}
            )


async def test_no_relation_shows_a_tenant_anything_of_another(books: Books) -> None:
    await fill(books)
    relations = await books.rows(RELATIONS)
    assert len(relations) >= 9, "the catalogue was not read"
    api_engine = make_engine(books.database.api_url, application_name="ledger-test-api", pool_size=1)
    readable: set[str] = set()
    try:
        for relation in relations:
            if not relation.has_tenant:
                assert relation.name == "alembic_version", f"{relation.name} has no tenant_id: who may read it?"
                assert not await _may_select(api_engine.connect(), relation.name)
                continue
            if relation.kind in "rp":
                assert relation.is_forced, f"{relation.name}: row-level security is not forced"
            else:
                assert relation.is_invoker, f"{relation.name}: a view must be security_invoker"
            for tenant in TENANTS:
                filled = await books.rows(f"SELECT 1 FROM {relation.name} WHERE tenant_id = :t LIMIT 1", t=tenant)
                assert filled, f"{relation.name} has no row of {tenant}: fill it in this test"
            if not await _may_select(api_engine.connect(), relation.name):
                continue
            readable.add(relation.name)
            for tenant in TENANTS:
                async with tenant_transaction(api_engine, tenant) as connection:
                    assert await _tenants_seen(connection, relation.name) == {tenant}
            async with api_engine.begin() as connection:
                assert await _tenants_seen(connection, relation.name) == set()
    finally:
        await api_engine.dispose()
    assert readable == {"balance", "credit_grant", "entry", "hold", "transfer", "transfer_archive"}


async def test_the_tenants_role_writes_nothing(books: Books) -> None:
    await fill(books)
    api_engine = make_engine(books.database.api_url, application_name="ledger-test-api", pool_size=1)
    try:
        for statement in (
            "UPDATE balance SET balance = 1",
            "DELETE FROM transfer",
            "INSERT INTO balance DEFAULT VALUES",
        ):
            with pytest.raises(DBAPIError, match="permission denied"):
                async with tenant_transaction(api_engine, "acme") as connection:
                    await connection.execute(text(statement))
    finally:
        await api_engine.dispose()


async def test_not_even_the_worker_changes_a_transfer(books: Books) -> None:
    await fill(books)
    for statement in ("UPDATE transfer SET credits = 1", "DELETE FROM transfer", "TRUNCATE transfer"):
        with pytest.raises(DBAPIError, match="permission denied"):
            async with books.engine.begin() as connection:
                await connection.execute(text(statement))


async def test_roles_bypass_nothing_and_own_nothing(books: Books) -> None:
    roles = await books.rows(
        "SELECT rolname, rolbypassrls OR rolsuper AS is_mighty FROM pg_roles WHERE rolname LIKE 'ledger_%'"
    )
    assert {row.rolname for row in roles} == {"ledger_owner", "ledger_api", "ledger_worker"}
    assert not any(row.is_mighty for row in roles)
    owners = await books.rows("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert [row.tableowner for row in owners] == ["ledger_owner"]


async def test_the_owner_reads_no_data(books: Books) -> None:
    await fill(books)
    owner = make_engine(books.database.owner_url, application_name="ledger-test-owner", pool_size=1)
    try:
        async with owner.begin() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM transfer")) == 0
    finally:
        await owner.dispose()


async def _may_select(connecting: Any, relation: str) -> bool:
    async with connecting as connection:
        return bool(await connection.scalar(text("SELECT has_table_privilege(:name, 'SELECT')"), {"name": relation}))


async def _tenants_seen(connection: AsyncConnection, relation: str) -> set[str]:
    return set(await connection.scalars(text(f"SELECT DISTINCT tenant_id FROM {relation}")))
