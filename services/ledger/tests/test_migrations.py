"""Migrations: what they make is what the code expects, and they may be started by several at once."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from embedded.environment import database_urls, inherited
from embedded.servers import PostgresServer
from ledger.tables import metadata
from shared.database import DatabaseUnavailable, make_engine
from shared.migrations import migrate

from .books import Books

EMPTY = "ledger_migration_test"


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The owner's address of a database without anything in it."""
    postgres_server.execute(f"CREATE DATABASE {EMPTY} OWNER ledger_owner")
    yield database_urls(postgres_server, "ledger", EMPTY)["DATABASE_URL_OWNER"]
    postgres_server.execute(f"DROP DATABASE {EMPTY} WITH (FORCE)")


async def test_tables_are_as_the_code_describes_them(books: Books) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [each for each in compare_metadata(context, metadata) if "alembic_version" not in str(each)]

    engine = make_engine(books.database.owner_url, application_name="ledger-test-compare", pool_size=1)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


async def test_several_migrators_at_once_and_again_later(empty_database: str) -> None:
    await asyncio.gather(*(migrate("ledger", empty_database, timeout_s=30) for _ in range(3)))
    await migrate("ledger", empty_database, timeout_s=30)


async def test_without_postgresql_it_waits_and_then_says_why() -> None:
    with pytest.raises(DatabaseUnavailable, match="did not answer within"):
        await migrate("ledger", "postgresql://ledger_owner:x@127.0.0.1:1/ledger", timeout_s=0.3)


def test_a_missing_address_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "migrate"], env=inherited(), capture_output=True, text=True, timeout=30,
        check=False, cwd="/",
    )  # fmt: skip
    assert (done.returncode, "DATABASE_URL_OWNER" in done.stderr) == (2, True)
