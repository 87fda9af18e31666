"""A tenant's role reads nothing of another tenant, in any table that has a tenant."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from recharge_environment import RechargeEnvironment
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database import make_engine, tenant_transaction

_WITH_TENANT = """
    SELECT c.oid::regclass::text AS name, c.relrowsecurity, c.relforcerowsecurity, c.relkind::text AS kind,
           COALESCE('security_invoker=true' = ANY (c.reloptions), false) AS is_invoker
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p', 'v', 'm') AND c.relnamespace = 'public'::regnamespace
    ORDER BY 1
"""

_WITHOUT_TENANT = """
    SELECT c.oid::regclass::text AS name FROM pg_class c
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
    ORDER BY 1
"""
_COLUMN_OF_EACH_TABLE = """
    SELECT quote_ident(c.relname) AS name, quote_ident(a.attname) AS column
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
    ORDER BY 1
"""


@pytest.fixture
async def api(environment: RechargeEnvironment) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(environment.database.api_url, application_name="recharge-test-api")
    yield engine
    await engine.dispose()


async def _fill(environment: RechargeEnvironment) -> tuple[str, str]:
    """Two tenants, each with rows in every table, made by the product wherever it makes them."""
    tenants: list[str] = []
    for _ in range(2):
        tenant = await environment.tenant("pm_card_visa")
        await environment.request(tenant)
        await environment.work()
        await environment.credit(tenant)
        tenants.append(tenant)
    async with environment.engine.begin() as connection:
        for tenant in tenants:
            values = {"tenant": tenant}
            await connection.execute(
                text("INSERT INTO card_stop VALUES (:tenant, 'card', 'stolen_card', now(), 'pm_1')"), values
            )
            await connection.execute(
                text("INSERT INTO other_payment VALUES (:tenant, 'pi_' || :tenant, 'a', 1, 'usd', now(), true, now())"),
                values,
            )
            await connection.execute(text("INSERT INTO card_evidence VALUES (:tenant, 'pm_1', now())"), values)
            await connection.execute(text("INSERT INTO outbox_mark VALUES (:tenant, 'topic', 'key', 1)"), values)
            await connection.execute(text("INSERT INTO published_state VALUES (:tenant, 'topic', 'key', 1)"), values)
    return tenants[0], tenants[1]


async def _visible(api: AsyncEngine, tenant: str | None, table: str) -> set[str]:
    """The tenants whose rows the API's role sees; none where it may not read the table at all."""
    statement = text(f"SELECT DISTINCT tenant_id FROM {table}")
    try:
        if tenant is None:
            async with api.begin() as connection:
                return set((await connection.execute(statement)).scalars())
        async with tenant_transaction(api, tenant) as connection:
            return set((await connection.execute(statement)).scalars())
    except ProgrammingError as error:
        assert "permission denied" in str(error)
        return set()


async def test_no_table_shows_a_tenant_the_rows_of_another(environment: RechargeEnvironment, api: AsyncEngine) -> None:
    mine, other = await _fill(environment)
    tables: list[dict[str, Any]] = await environment.rows(_WITH_TENANT)
    assert len(tables) >= 11
    for table in tables:
        name = table["name"]
        filled = {row["tenant_id"] for row in await environment.rows(f"SELECT DISTINCT tenant_id FROM {name}")}
        assert {mine, other} <= filled, f"{name} could not be filled for two tenants"
        if table["kind"] in ("v", "m"):
            assert table["is_invoker"], f"{name} reads as its owner"
        else:
            assert table["relrowsecurity"] and table["relforcerowsecurity"], f"{name} is not protected"
        assert await _visible(api, mine, name) <= {mine}, f"{name} leaks"
        assert await _visible(api, None, name) == set(), f"{name} is read without a tenant"
    for name in ("attempt", "attempt_try", "decision", "request"):
        assert await _visible(api, mine, name) == {mine}


async def test_a_table_without_a_tenant_is_not_read_by_a_tenants_role(
    environment: RechargeEnvironment, api: AsyncEngine
) -> None:
    tables = [row["name"] for row in await environment.rows(_WITHOUT_TENANT)]
    assert {"alembic_version", "breaker", "dispute"} <= set(tables), "the catalogue was not read"
    async with api.connect() as connection:
        for name in tables:
            may_read = await connection.scalar(text("SELECT has_any_column_privilege(:name, 'SELECT')"), {"name": name})
            assert not may_read, f"{name} has no tenant_id: who may read it?"


@pytest.mark.parametrize(
    "statement", ["DELETE FROM {}", "UPDATE {0} SET {1} = {1}", "INSERT INTO {} DEFAULT VALUES", "TRUNCATE {}"]
)
async def test_a_tenants_role_writes_nothing(
    environment: RechargeEnvironment, api: AsyncEngine, statement: str
) -> None:
    mine, _other = await _fill(environment)
    for table in await environment.rows(_COLUMN_OF_EACH_TABLE):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with tenant_transaction(api, mine) as connection:
                await connection.execute(text(statement.format(table["name"], table["column"])))
