"""Tables that can be distributed by tenant (Citus): every key and index begins with the tenant, or says why not."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.database import make_engine

from .books import Books

QUEUE = "a queue's own order: read without a tenant, by the workers of the node that holds it"
#: Of what must be unique across tenants, or is read across them: (table, index) and the reason.
NOT_BY_TENANT = {
    ("payment_intent", "payment_intent_pkey"): "locks what Stripe names, which knows no tenants; stays in one place",
    ("payment_intent", "payment_intent_waiting"): "the few of that table that wait for their credit",
    ("payment_intent", "payment_intent_in_order"): "that table in the order in which it grew, compared with Stripe",
    ("alembic_version", "alembic_version_pkc"): "the one row of the migrations",
    ("outbox", "outbox_due_at"): QUEUE,
    ("outbox_mark", "outbox_mark_due_at"): QUEUE,
}

#: Primary keys and unique constraints are indexes too; `attname` is null where the index begins with an expression.
_NOT_BY_TENANT = """
    SELECT relation.relname AS "table", index.relname AS "index"
    FROM pg_index
    JOIN pg_class relation ON relation.oid = indrelid
    JOIN pg_class index ON index.oid = indexrelid
    JOIN pg_namespace ON pg_namespace.oid = relation.relnamespace AND nspname = 'public'
    LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] AND attnum > 0
    WHERE attname IS DISTINCT FROM 'tenant_id'
"""
_TABLES_WITHOUT_KEY = """
    SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace AND nspname = 'public'
    WHERE relkind IN ('r', 'p')
      AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary)
"""


@pytest.fixture
async def owner(books: Books) -> AsyncIterator[AsyncConnection]:
    """A transaction of the tables' owner, undone at the end."""
    engine = make_engine(books.database.owner_url, application_name="ledger-test-owner", pool_size=1)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def not_by_tenant(connection: AsyncConnection) -> set[tuple[str, str]]:
    return {(row.table, row.index) for row in await connection.execute(text(_NOT_BY_TENANT))}


async def test_every_key_and_index_begins_with_the_tenant(owner: AsyncConnection) -> None:
    assert await not_by_tenant(owner) == set(NOT_BY_TENANT)
    assert (await owner.execute(text(_TABLES_WITHOUT_KEY))).all() == []


async def test_every_key_and_index_of_an_archive_partition_begins_with_the_tenant(owner: AsyncConnection) -> None:
    await owner.execute(text("SELECT make_archive_partition('2020-05-01Z')"))
    assert await not_by_tenant(owner) == set(NOT_BY_TENANT)
    assert (await owner.execute(text(_TABLES_WITHOUT_KEY))).all() == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX wrong ON transfer (reference, tenant_id)",
        "CREATE INDEX wrong ON transfer (lower(tenant_id), reference)",
        "CREATE UNIQUE INDEX wrong ON credit_grant (reference) WHERE NOT spent",
        "ALTER TABLE hold ADD CONSTRAINT wrong UNIQUE (reference, tenant_id)",
        "CREATE TABLE wrong (id bigint PRIMARY KEY)",
    ],
)
async def test_an_index_that_does_not_begin_with_the_tenant_is_found(owner: AsyncConnection, statement: str) -> None:
    await owner.execute(text(statement))
    [found] = await not_by_tenant(owner) - set(NOT_BY_TENANT)
    assert found[1].startswith("wrong")
