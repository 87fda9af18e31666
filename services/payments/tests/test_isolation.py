"""The API's role reads and writes only rows of its tenant, in every relation of the database."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from embedded.testing import ServiceDatabase
from shared.database import make_engine, tenant_transaction
from shared.events import EXAMPLES, AttemptChanged, BalanceChanged, EntryPosted

TENANTS = ("acme", "bravo")
Call = Callable[..., Any]

#: Relations without a tenant, and whether the tenant's role may read them.
WITHOUT_TENANT = {"alembic_version": False, "package": True, "payment_method_lock": False}

RELATIONS = """
    SELECT c.relname AS name, c.relkind::text AS kind, c.relrowsecurity AND c.relforcerowsecurity AS is_forced,
           coalesce(c.reloptions::text[] && ARRAY['security_invoker=true', 'security_invoker=on'], false) AS is_invoker,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') AS has_tenant
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND n.nspname NOT LIKE 'pg_toast%' AND n.nspname NOT LIKE 'pg_temp%'
    ORDER BY 1
"""


@pytest.fixture
async def filled(call: Call, buy: Call, save_card: Call, consume: Call, worker_engine: AsyncEngine) -> None:
    """Rows of both tenants in every table, written through the service's API and handlers."""
    settings = {
        "enabled": True,
        "thresholdCredits": 500,
        "amountMinor": 5000,
        "currency": "usd",
        "monthlyCapMinor": 20000,
        "consent": {"textVersion": "2026-01"},
    }
    for tenant in TENANTS:
        await save_card(tenant)
        await buy(tenant, packageId="starter")
        assert (await call(tenant, "PUT", "/api/credits/auto-recharge", settings)).status_code == 200
        asked = await call(tenant, "POST", "/api/credits/auto-recharge/trigger-now", key="k")
        assert asked.status_code == 202, asked.text
        await consume(*(EXAMPLES[kind].model_copy(update={"tenant": tenant})
                     for kind in (AttemptChanged, BalanceChanged, EntryPosted)))  # fmt: skip
        async with worker_engine.begin() as connection:
            await connection.execute(
                text("INSERT INTO published_state VALUES (:tenant, 'topic', :tenant, 1)"), {"tenant": tenant}
            )


async def test_no_relation_shows_a_tenant_rows_of_another(filled: None, rows: Call, api_engine: AsyncEngine) -> None:
    relations = await rows(RELATIONS)
    assert len(relations) >= 15, "the catalogue was not read"
    readable: set[str] = set()
    for relation in relations:
        may_read = await _may_select(api_engine, relation.name)
        if not relation.has_tenant:
            assert WITHOUT_TENANT.get(relation.name) is may_read, f"{relation.name} has no tenant_id: who may read it?"
            continue
        if relation.kind in "rp":
            assert relation.is_forced, f"{relation.name}: row-level security is not forced"
        else:
            assert relation.is_invoker, f"{relation.name}: a view must be security_invoker"
        for tenant in TENANTS:
            found = await rows(f"SELECT 1 FROM {relation.name} WHERE tenant_id = :t LIMIT 1", t=tenant)
            assert found, f"{relation.name} has no row of {tenant}: fill it in this test"
        if not may_read:
            continue
        readable.add(relation.name)
        for tenant in TENANTS:
            async with tenant_transaction(api_engine, tenant) as connection:
                assert await _tenants_seen(connection, relation.name) == {tenant}
        async with api_engine.begin() as connection:
            assert await _tenants_seen(connection, relation.name) == set()
    assert {"card", "purchase", "idempotency", "consent", "balance", "entry", "attempt"} <= readable


async def test_a_tenant_writes_no_row_of_another(filled: None, api_engine: AsyncEngine) -> None:
    async with tenant_transaction(api_engine, "acme") as connection:
        for statement in (
            "UPDATE purchase SET state = 'canceled' WHERE tenant_id = 'bravo'",
            "UPDATE card SET state = 'detached' WHERE tenant_id = 'bravo'",
            "UPDATE auto_recharge SET enabled = false WHERE tenant_id = 'bravo'",
        ):
            assert (await connection.execute(text(statement))).rowcount == 0
    for statement in (
        "INSERT INTO profile (tenant_id) VALUES ('charlie')",
        "INSERT INTO outbox_mark (tenant_id, topic, key, version) VALUES ('bravo', 't', 'bravo', 99)",
    ):
        with pytest.raises(DBAPIError, match="row-level security"):
            async with tenant_transaction(api_engine, "acme") as connection:
                await connection.execute(text(statement))
    for statement in (
        "UPDATE balance SET available = 1",
        "INSERT INTO card SELECT * FROM card",
        "DELETE FROM purchase",
    ):
        with pytest.raises(DBAPIError, match="permission denied"):
            async with tenant_transaction(api_engine, "acme") as connection:
                await connection.execute(text(statement))


async def test_roles_bypass_no_row_level_security_and_own_no_tables(rows: Call) -> None:
    roles = await rows(
        "SELECT rolname, rolbypassrls OR rolsuper AS bypasses FROM pg_roles WHERE rolname LIKE 'payments_%'"
    )
    assert {row.rolname for row in roles} == {"payments_owner", "payments_api", "payments_worker"}
    assert not any(row.bypasses for row in roles)
    owners = await rows("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert [row.tableowner for row in owners] == ["payments_owner"]


async def test_the_owner_reads_no_tenants_data(filled: None, database: ServiceDatabase) -> None:
    owner = make_engine(database.owner_url, application_name="payments-test-owner", pool_size=1)
    try:
        async with owner.begin() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM purchase")) == 0
            assert await connection.scalar(text("SELECT count(*) FROM outbox_mark")) == 0
    finally:
        await owner.dispose()


async def _may_select(engine: AsyncEngine, relation: str) -> bool:
    async with engine.connect() as connection:
        return bool(await connection.scalar(text("SELECT has_table_privilege(:name, 'SELECT')"), {"name": relation}))


async def _tenants_seen(connection: AsyncConnection, relation: str) -> set[str]:
    return set(await connection.scalars(text(f"SELECT DISTINCT tenant_id FROM {relation}")))
