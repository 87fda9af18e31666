"""What every service's tests assert of its database: a tenant's role reads nothing of another tenant."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from embedded.testing import ServiceDatabase
from shared.database import make_engine, tenant_transaction

#: Every table, partition, view and materialized view outside PostgreSQL's own schemas, and whether it has a tenant.
_RELATIONS = """
    SELECT c.oid::regclass::text AS name, c.relkind::text AS kind,
           c.relrowsecurity AND c.relforcerowsecurity AS is_forced,
           coalesce(c.reloptions::text[] && ARRAY['security_invoker=true', 'security_invoker=on'], false) AS is_invoker,
           EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS has_tenant
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND n.nspname NOT LIKE 'pg_toast%' AND n.nspname NOT LIKE 'pg_temp%'
    ORDER BY 1
"""


async def assert_tenants_are_isolated(
    database: ServiceDatabase, tenants: Sequence[str], *, relations_min: int, without_tenant: Mapping[str, bool]
) -> set[str]:
    """Asserts that the API's role, confined to a tenant, reads that tenant's rows only, and none without a tenant.

    Every relation with a `tenant_id` must have rows of all `tenants`. The others are named in `without_tenant`, with
    whether the API's role may read them. Returns the relations with a `tenant_id` that the role may read.
    """
    readable: set[str] = set()
    async with _engine(database.superuser_url) as superuser, _engine(database.api_url) as api:
        async with superuser.connect() as connection:
            relations = (await connection.execute(text(_RELATIONS))).all()
        assert len(relations) >= relations_min, "the catalogue was not read"
        for relation in relations:
            name: str = relation.name
            if not relation.has_tenant:
                may_read = await _may_read(api, "has_any_column_privilege(:name, 'SELECT')", name)
                assert without_tenant.get(name) is may_read, f"{name} has no tenant_id: who may read it?"
                continue
            _assert_protected(relation)
            async with superuser.connect() as connection:
                missing = set(tenants) - await _tenants_in(connection, name)
            assert not missing, f"{name} has no row of {missing}: fill it in this test"
            if not await _may_read(api, "has_column_privilege(:name, 'tenant_id', 'SELECT')", name):
                continue
            readable.add(name)
            for tenant in tenants:
                async with tenant_transaction(api, tenant) as connection:
                    assert await _tenants_in(connection, name) == {tenant}, f"{name} is not confined to its tenant"
            async with api.begin() as connection:
                assert await _tenants_in(connection, name) == set(), f"{name} is read without a tenant"
    return readable


async def assert_owner_reads_nothing(database: ServiceDatabase, tables: Collection[str]) -> None:
    """Asserts that the owner of the tables, who migrates them, sees no rows in them."""
    async with _engine(database.owner_url) as owner, owner.begin() as connection:
        for table in tables:
            assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table


def _assert_protected(relation: Row[Any]) -> None:
    if relation.kind in "rp":
        assert relation.is_forced, f"{relation.name}: row-level security is not forced"
    else:
        assert relation.is_invoker, f"{relation.name}: a view must be security_invoker"


async def _may_read(api: AsyncEngine, privilege: str, name: str) -> bool:
    async with api.connect() as connection:
        return bool(await connection.scalar(text(f"SELECT {privilege}"), {"name": name}))


async def _tenants_in(connection: AsyncConnection, relation: str) -> set[str]:
    return set(await connection.scalars(text(f"SELECT DISTINCT tenant_id FROM {relation}")))


@asynccontextmanager
async def _engine(url: str) -> AsyncGenerator[AsyncEngine]:
    engine = make_engine(url, application_name="isolation", pool_size=1)
    try:
        yield engine
    finally:
        await engine.dispose()
