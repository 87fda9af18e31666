"""Privileges in every service's database: no function and no role can be abused through temporary tables or schemas."""

import secrets
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.environment import database_urls
from embedded.servers import PostgresServer
from shared.database import make_engine
from shared.migrations import migrate

_DEFINER_FUNCTIONS = text("""
    SELECT pg_proc.oid::regprocedure::text AS function, array_to_string(proconfig, ';') AS settings
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE prosecdef AND nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
""")
_RIGHTS = text("""
    SELECT rolname AS role, has_database_privilege(rolname, current_database(), 'TEMPORARY') AS temporary,
           has_schema_privilege(rolname, 'public', 'CREATE') AS creates
    FROM pg_roles WHERE rolname IN (:api, :worker) ORDER BY 1
""")
_SERVICE_ROLES = text("""
    SELECT rolname AS role, rolbypassrls OR rolsuper AS bypasses FROM pg_roles WHERE rolname LIKE :names ORDER BY 1
""")
_TABLE_OWNERS = text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")


@pytest.fixture(params=["ledger", "payments", "recharge"])
async def migrated(
    request: pytest.FixtureRequest, postgres_server: PostgresServer
) -> AsyncIterator[tuple[str, AsyncEngine]]:
    """A service and its database as `migrate` leaves it, without further preparation."""
    service: str = request.param
    name = f"{service}_catalogue_{secrets.token_hex(4)}"
    postgres_server.execute(f"CREATE DATABASE {name} OWNER {service}_owner")
    await migrate(service, database_urls(postgres_server, service, name)["DATABASE_URL_OWNER"], 30)
    engine = make_engine(postgres_server.url(name), application_name="catalogue")
    yield service, engine
    await engine.dispose()
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_security_definer_functions_search_pg_temp_last(migrated: tuple[str, AsyncEngine]) -> None:
    service, engine = migrated
    async with engine.connect() as connection:
        functions = (await connection.execute(_DEFINER_FUNCTIONS)).all()
    assert bool(functions) == (service == "ledger"), "only the archive has such functions"
    for function in functions:
        settings = dict(each.split("=", 1) for each in (function.settings or "").split(";") if each)
        path = [each.strip() for each in settings.get("search_path", "").split(",")]
        assert path[-1] == "pg_temp", f"{function.function}: {path}"


async def test_no_serving_role_can_create_temporary_tables_or_objects_in_the_schema(
    migrated: tuple[str, AsyncEngine],
) -> None:
    service, engine = migrated
    async with engine.connect() as connection:
        rights = (await connection.execute(_RIGHTS, {"api": f"{service}_api", "worker": f"{service}_worker"})).all()
    assert [(each.role, each.temporary, each.creates) for each in rights] == [
        (f"{service}_api", False, False), (f"{service}_worker", False, False),
    ]  # fmt: skip


async def test_no_role_of_a_service_bypasses_row_security_and_only_its_owner_owns_tables(
    migrated: tuple[str, AsyncEngine],
) -> None:
    service, engine = migrated
    async with engine.connect() as connection:
        roles = (await connection.execute(_SERVICE_ROLES, {"names": f"{service}_%"})).all()
        owners = (await connection.execute(_TABLE_OWNERS)).scalars().all()
    assert [(each.role, each.bypasses) for each in roles] == [
        (f"{service}_api", False), (f"{service}_owner", False), (f"{service}_worker", False),
    ]  # fmt: skip
    assert owners == [f"{service}_owner"]
