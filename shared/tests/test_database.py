"""What PostgreSQL's errors mean, and that connections it has closed cost nobody a request."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.servers import PostgresServer
from load.waiting import until
from shared.database import is_time_out, is_transient, make_engine


async def test_connections_closed_while_they_lay_in_the_pool_are_replaced_before_anybody_uses_them(
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
async def test_a_statement_that_takes_too_long_is_told_from_one_that_waits_for_others(
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
        ("ALTER ROLE trouble SET default_transaction_read_only = on", "ALTER ROLE trouble RESET ALL"),
        ("ALTER ROLE trouble NOLOGIN", "ALTER ROLE trouble LOGIN"),
        ("ALTER ROLE trouble PASSWORD 'another'", "ALTER ROLE trouble PASSWORD 'right'"),
        ("ALTER ROLE trouble CONNECTION LIMIT 0", "ALTER ROLE trouble CONNECTION LIMIT -1"),
        ("ALTER DATABASE trouble ALLOW_CONNECTIONS false", "ALTER DATABASE trouble ALLOW_CONNECTIONS true"),
        ("ALTER DATABASE trouble RENAME TO elsewhere", "ALTER DATABASE elsewhere RENAME TO trouble"),
    ],
)
async def test_a_server_that_does_not_let_us_write_for_a_while_is_trouble_that_passes(
    postgres_server: PostgresServer, on: str, off: str
) -> None:
    """A demoted primary, a rotated password: what a record says has no part in it. Then the same engine goes on."""
    postgres_server.execute("CREATE ROLE trouble LOGIN PASSWORD 'right'")
    postgres_server.execute("CREATE DATABASE trouble OWNER trouble")
    engine = make_engine(postgres_server.url("trouble", "trouble", "right"), application_name="test", pool_size=1)
    try:
        postgres_server.execute(on)
        with pytest.raises(Exception) as caught:  # which one it is, is the question
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TABLE written ()"))
        assert is_transient(caught.value), caught.value
        postgres_server.execute(off)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE written ()"))
    finally:
        await engine.dispose()
        postgres_server.execute("DROP DATABASE IF EXISTS trouble WITH (FORCE)")
        postgres_server.execute("DROP DATABASE IF EXISTS elsewhere WITH (FORCE)")
        postgres_server.execute("DROP ROLE trouble")


async def test_a_statement_that_was_prepared_before_a_migration_may_succeed_later(engine: AsyncEngine) -> None:
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
            of_the_driver = caught.value.orig.__cause__
            assert is_transient(DBAPIError("a statement sent to the driver itself", None, of_the_driver))
            await connection.rollback()
            await connection.execute(text("SELECT * FROM migrated"))
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("DROP TABLE migrated"))


def test_what_takes_longer_than_a_handler_may_is_a_time_out_and_a_lost_connection_is_none() -> None:
    assert is_time_out(TimeoutError())
    assert not is_time_out(ConnectionResetError())
