"""Migrations: they make the tables that the code expects, and may run concurrently."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from embedded.environment import database_urls, inherited
from embedded.servers import PostgresServer
from ledger.commands.check import check, report
from ledger.repository.tables import metadata
from shared.database import DatabaseUnavailable, make_engine
from shared.migrations import StillRunning, migrate

from .books import Books

EMPTY = "ledger_migration_test"


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The owner's address of a database without anything in it."""
    postgres_server.execute(f"CREATE DATABASE {EMPTY} OWNER ledger_owner")
    yield database_urls(postgres_server, "ledger", EMPTY)["DATABASE_URL_OWNER"]
    postgres_server.execute(f"DROP DATABASE {EMPTY} WITH (FORCE)")


async def test_tables_match_their_definitions(books: Books) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [each for each in compare_metadata(context, metadata) if "alembic_version" not in str(each)]

    engine = make_engine(books.database.owner_url, application_name="ledger-test-compare", pool_size=1)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


async def test_concurrent_and_repeated_migrations_succeed(empty_database: str) -> None:
    await asyncio.gather(*(migrate("ledger", empty_database, timeout_s=30) for _ in range(3)))
    await migrate("ledger", empty_database, timeout_s=30)


async def test_migration_waits_for_postgresql_and_then_fails_with_the_reason() -> None:
    with pytest.raises(DatabaseUnavailable, match="did not answer within"):
        await migrate("ledger", "postgresql://ledger_owner:x@127.0.0.1:1/ledger", timeout_s=0.3)


def test_a_missing_database_url_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "migrate"], env=inherited(), capture_output=True, text=True, timeout=30,
        check=False, cwd="/",
    )  # fmt: skip
    assert (done.returncode, "DATABASE_URL_OWNER" in done.stderr) == (2, True)


#: What an earlier version has left: grant 1 expired and was taken back as well, grant 2 expired in part, grant 3 was
#: taken back in part, and an order was credited to two PaymentIntents.
OLD = """
    INSERT INTO credit_grant (tenant_id, grant_number, door, reference, payment_intent, credits, remaining, priority,
                              spent, created_at)
    SELECT 'acme', n, 'stripe', 'pi_' || n, 'pi_' || n, 100, 0, 100, true, now() FROM generate_series(1, 3) n;
    INSERT INTO transfer (tenant_id, door, reference, input_hash, kind, source, destination, credits, version,
                          balance_after, available_after, owed_after, receivable_after, grant_numbers, grant_credits,
                          created_at, beyond_limit)
    SELECT 'acme', 'system', 'expiry:' || n, '', 'expiry', 'available', 'expired', lost, n, 0, 0, 0, 0, ARRAY[n],
           ARRAY[-lost], now(), false
    FROM (VALUES (1, 100), (2, 60)) AS expired (n, lost);
    INSERT INTO payment_intent (payment_intent, tenant_id, grant_number, kind, credits, amount_minor, currency,
                                purchase, reversed_credits, first_seen_at)
    SELECT 'pi_' || n, 'acme', n, 'purchase', 100, 1000, 'usd', CASE WHEN n < 3 THEN 'pur_1' ELSE 'pur_3' END, reversed,
           '2026-01-01'::timestamptz + n * interval '1 s'
    FROM (VALUES (1, 100), (2, 0), (3, 30)) AS credited (n, reversed);
"""


async def test_migration_fills_expired_credits_and_orders_of_old_books(
    empty_database: str, postgres_server: PostgresServer
) -> None:
    await _make_books_of("0004", empty_database)
    await asyncio.to_thread(postgres_server.execute, OLD, EMPTY)
    await migrate("ledger", empty_database, timeout_s=30)
    grants = "SELECT grant_number, expired, reversed FROM credit_grant ORDER BY 1"
    assert postgres_server.execute(grants, EMPTY).split() == ["1|0|100", "2|60|0", "3|0|30"]
    orders = "SELECT payment_intent, purchase, refused FROM payment_intent ORDER BY 1"
    assert postgres_server.execute(orders, EMPTY).split() == ["pi_1|pur_1|{}", "pi_2||{}", "pi_3|pur_3|{}"]


#: Books of the same age, in full. Of 100 credits each, `half` has used 60 and 40 expired, and half of the money went
#: back; of `none` all expired, and all of the money went back. Both were made to owe it as well.
LOST_TWICE = """
    INSERT INTO transfer (tenant_id, door, reference, input_hash, kind, source, destination, credits, version,
                          balance_after, available_after, owed_after, receivable_after, grant_numbers, grant_credits,
                          created_at, beyond_limit, amount_minor, currency, payment_intent)
    SELECT tenant, door, reference, '', kind, source, destination, credits, n, available, available, owed, owed,
           ARRAY[1], ARRAY[moved], '2026-01-01'::timestamptz + n * interval '1 day', false,
           CASE WHEN door = 'stripe' THEN credits * 10 END, CASE WHEN door = 'stripe' THEN 'usd' END,
           CASE WHEN door = 'stripe' THEN 'pi_' || tenant END
    FROM (VALUES
        ('half', 1, 'stripe', 'pi_half', 'purchase', 'sold', 'available', 100, 100, 0, 100),
        ('half', 2, 'product', 'job-1', 'usage', 'available', 'used', 60, 40, 0, -60),
        ('half', 3, 'system', 'expiry:3', 'expiry', 'available', 'expired', 40, 0, 0, -40),
        ('half', 4, 'stripe', 're_1', 'refund', 'available', 'refunded', 50, -50, 50, 0),
        ('none', 1, 'stripe', 'pi_none', 'purchase', 'sold', 'available', 100, 100, 0, 100),
        ('none', 2, 'system', 'expiry:2', 'expiry', 'available', 'expired', 100, 0, 0, -100),
        ('none', 3, 'stripe', 're_2', 'refund', 'available', 'refunded', 100, -100, 100, 0)
    ) AS old (tenant, n, door, reference, kind, source, destination, credits, available, owed, moved);
    INSERT INTO credit_grant (tenant_id, grant_number, door, reference, payment_intent, credits, remaining, priority,
                              spent, created_at)
    SELECT tenant_id, 1, door, reference, reference, credits, 0, 100, true, created_at
    FROM transfer WHERE kind = 'purchase';
    INSERT INTO payment_intent (payment_intent, tenant_id, grant_number, kind, credits, amount_minor, currency,
                                purchase, reversed_credits, refunds, first_seen_at)
    SELECT payment_intent, tenant_id, 1, 'purchase', 100, 1000, 'usd', 'pur_' || tenant_id, credits,
           jsonb_build_object(reference, jsonb_build_object('amount_minor', amount_minor, 'is_void', false)), now()
    FROM transfer WHERE kind = 'refund';
    INSERT INTO balance (tenant_id, version, balance, held, owed, receivable, grants_made, usage_by_purpose,
                         usage_of_other_purposes, changed_at)
    SELECT tenant_id, version, balance_after, 0, owed_after, receivable_after, 1, '{}', 0, created_at
    FROM transfer WHERE kind = 'refund';
"""


async def test_check_passes_migrated_books_and_lists_credits_lost_twice(
    empty_database: str, postgres_server: PostgresServer
) -> None:
    await _make_books_of("0004", empty_database)
    await asyncio.to_thread(postgres_server.execute, LOST_TWICE, EMPTY)
    await migrate("ledger", empty_database, timeout_s=30)
    grants = "SELECT tenant_id, expired, reversed, unpaid, lost_twice FROM credit_grant ORDER BY 1"
    assert postgres_server.execute(grants, EMPTY).split() == ["half|0|50|50|40", "none|0|100|100|100"]
    engine = make_engine(postgres_server.url(EMPTY), application_name="ledger-test-check", pool_size=1)
    try:
        findings = await check(engine)
    finally:
        await engine.dispose()
    assert (findings.wrong, findings.exit_code) == ([], 0)
    assert findings.lost_twice == ["tenant 'half', grant 1: 40 credits", "tenant 'none', grant 1: 100 credits"]
    assert "give them back once" in report(findings)


async def test_migration_is_refused_while_older_processes_run(
    empty_database: str, postgres_server: PostgresServer
) -> None:
    await _make_books_of("0004", empty_database)
    running = make_engine(postgres_server.url(EMPTY), application_name="ledger-worker-role", pool_size=1)
    try:
        async with running.connect():
            with pytest.raises(StillRunning, match="Stop every ledger process"):
                await migrate("ledger", empty_database, timeout_s=30)
            assert postgres_server.execute("SELECT version_num FROM alembic_version", EMPTY).split() == ["0004"]
    finally:
        await running.dispose()
    await migrate("ledger", empty_database, timeout_s=30)


async def _make_books_of(revision: str, database_url: str) -> None:
    engine = make_engine(database_url, application_name="ledger-test-migrate", pool_size=1)
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade_to, revision)
    await engine.dispose()


def _upgrade_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "ledger:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
