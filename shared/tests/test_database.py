"""The classification of PostgreSQL's errors, and the replacement of closed connections."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.servers import PostgresServer
from load.waiting import until
from shared.database import is_time_out, is_transient, make_engine


async def test_pooled_connections_that_postgresql_has_closed_are_replaced(
    postgres_server: PostgresServer, engine: AsyncEngine
) -> None:
    async def backend() -> int:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(0.05)"))
            return (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()

    before = set(await asyncio.gather(*(backend() for _ in range(3))))
    named = f"pid IN ({', '.join(str(pid) for pid in before)})"
    postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {named}")

    async def are_gone() -> bool:
        count = await asyncio.to_thread(postgres_server.execute, f"SELECT count(*) FROM pg_stat_activity WHERE {named}")
        return count == "0"

    await until(are_gone)
    after = set(await asyncio.gather(*(backend() for _ in range(3))))
    assert len(before) == 3
    assert after.isdisjoint(before)


@pytest.mark.parametrize(
    ("setting", "statement", "is_too_slow"),
    [
        ("statement_timeout", "SELECT pg_sleep(10)", True),
        ("lock_timeout", "LOCK TABLE handled", False),
    ],
)
async def test_a_statement_time_out_is_a_time_out_and_a_lock_time_out_is_not(
    engine: AsyncEngine, setting: str, statement: str, is_too_slow: bool
) -> None:
    async with engine.begin() as other:
        await other.execute(text("LOCK TABLE handled"))
        with pytest.raises(DBAPIError) as caught:
            async with engine.begin() as connection:
                await connection.execute(text(f"SET LOCAL {setting} = '20ms'"))
                await connection.execute(text(statement))
    assert is_transient(caught.value)
    assert is_time_out(caught.value) is is_too_slow


@pytest.mark.parametrize(
    ("on", "off"),
    [
        ("ALTER ROLE unwritable SET default_transaction_read_only = on", "ALTER ROLE unwritable RESET ALL"),
        ("ALTER ROLE unwritable NOLOGIN", "ALTER ROLE unwritable LOGIN"),
        ("ALTER ROLE unwritable PASSWORD 'another'", "ALTER ROLE unwritable PASSWORD 'right'"),
        ("ALTER ROLE unwritable CONNECTION LIMIT 0", "ALTER ROLE unwritable CONNECTION LIMIT -1"),
        ("ALTER DATABASE unwritable ALLOW_CONNECTIONS false", "ALTER DATABASE unwritable ALLOW_CONNECTIONS true"),
        ("ALTER DATABASE unwritable RENAME TO elsewhere", "ALTER DATABASE elsewhere RENAME TO unwritable"),
    ],
)
async def test_a_server_that_temporarily_rejects_writes_is_a_transient_error(
    postgres_server: PostgresServer, on: str, off: str
) -> None:
    """Such as a demoted primary or a rotated password. Afterwards the same engine works again."""
    postgres_server.execute("CREATE ROLE unwritable LOGIN PASSWORD 'right'")
    postgres_server.execute("CREATE DATABASE unwritable OWNER unwritable")
    engine = make_engine(postgres_server.url("unwritable", "unwritable", "right"), application_name="test", pool_size=1)
    try:
        postgres_server.execute(on)
        with pytest.raises(Exception) as caught:  # of any type
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TABLE written ()"))
        assert is_transient(caught.value), caught.value
        postgres_server.execute(off)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE written ()"))
    finally:
        await engine.dispose()
        postgres_server.execute("DROP DATABASE IF EXISTS unwritable WITH (FORCE)")
        postgres_server.execute("DROP DATABASE IF EXISTS elsewhere WITH (FORCE)")
        postgres_server.execute("DROP ROLE unwritable")


async def test_a_statement_that_was_prepared_before_a_migration_is_a_transient_error(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE migrated (a int)"))
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT * FROM migrated"))
            await connection.commit()
            async with engine.begin() as migration:
                await migration.execute(text("ALTER TABLE migrated ADD COLUMN b int"))
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(text("SELECT * FROM migrated"))
            assert is_transient(caught.value)
            driver_error = caught.value.orig.__cause__
            assert is_transient(DBAPIError("a statement that was sent to the driver directly", None, driver_error))
            await connection.rollback()
            await connection.execute(text("SELECT * FROM migrated"))
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("DROP TABLE migrated"))


def test_a_timeout_error_is_a_time_out_and_a_lost_connection_is_not() -> None:
    assert is_time_out(TimeoutError())
    assert not is_time_out(ConnectionResetError())
