"""A tenant's role reads nothing of another tenant, in any table that has a tenant."""

from collections.abc import AsyncIterator

import pytest
from recharge_environment import RechargeEnvironment
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.tenant_isolation import assert_tenants_are_isolated
from shared.database import make_engine, tenant_transaction

#: Relations without a tenant. The API's role may read none of them.
WITHOUT_TENANT = dict.fromkeys(
    ("alembic_version", "breaker", "dispute", "package", "scoped_breaker", "topic_progress"), False
)
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


async def test_no_table_shows_a_tenant_the_rows_of_another(environment: RechargeEnvironment) -> None:
    readable = await assert_tenants_are_isolated(
        environment.database,
        await _fill(environment),
        relations_min=11 + len(WITHOUT_TENANT),
        without_tenant=WITHOUT_TENANT,
    )
    assert {"attempt", "attempt_try", "decision", "request"} <= readable


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
