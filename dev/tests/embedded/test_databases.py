"""A database that is reused is as one that was created for the test."""

import pytest

from embedded.servers import StatementFailed
from embedded.testing import Databases, ServiceDatabase
from shared.database import make_engine

ROW = """
    INSERT INTO unapplied_receipt (tenant_id, payment_intent, amount_minor, currency, reason, received_at)
    VALUES ('acme', 'pi_1', 1, 'usd', '', now())
"""


def rows(databases: Databases, database: ServiceDatabase) -> dict[str, str]:
    tables = databases.server.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'", database.name
    ).split()
    return {
        table: databases.server.execute(f"SELECT json_agg({table} ORDER BY {table}::text) FROM {table}", database.name)
        for table in tables
        if table != "alembic_version"
    }


def lend_again(databases: Databases, lent: ServiceDatabase) -> ServiceDatabase:
    databases.give_back("ledger", lent)
    return databases.lend("ledger")


@pytest.mark.parametrize("service", ["ledger", "payments", "recharge"])
def test_a_reused_database_has_the_rows_of_a_new_one(databases: Databases, service: str) -> None:
    made, lent = databases.create(service), databases.lend(service)
    expected = rows(databases, made)
    databases.server.execute("; ".join(f"DELETE FROM {table}" for table in expected), lent.name)
    databases.give_back(service, lent)
    assert databases.lend(service) is lent
    assert rows(databases, lent) == expected
    databases.give_back(service, lent)
    databases.drop(made)


async def test_a_reused_database_is_empty_and_has_no_connections(databases: Databases) -> None:
    first = databases.lend("ledger")
    databases.server.execute(ROW, first.name)
    engine = make_engine(first.worker_url, application_name="test", pool_size=1)
    async with engine.connect():  # in a transaction
        second = lend_again(databases, first)
    await engine.dispose()
    assert second is first
    assert databases.server.execute("SELECT count(*) FROM unapplied_receipt", second.name) == "0"
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    assert databases.server.execute(sessions, second.name) == "1", "only the one that asks"
    databases.give_back("ledger", second)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE balance DROP CONSTRAINT balance_debts",
        "ALTER TABLE balance ALTER COLUMN held DROP NOT NULL",
        "ALTER TABLE balance ALTER COLUMN held SET DEFAULT 1",
        "ALTER TABLE balance NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE balance OWNER TO postgres",
        "CREATE INDEX ON balance (held)",
        "CREATE TABLE more ()",
        "CREATE SCHEMA more",
        "DROP VIEW entry",
        "DROP INDEX hold_open",
        "GRANT DELETE ON transfer TO ledger_api",
        "CREATE POLICY more ON balance TO ledger_api USING (true)",
        "UPDATE alembic_version SET version_num = '0001'",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 65', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database()); END $$",
    ],
)
def test_a_database_whose_schema_was_changed_is_not_reused(databases: Databases, change: str) -> None:
    first = databases.lend("ledger")
    databases.server.execute(change, first.name)
    second = lend_again(databases, first)
    assert second.name != first.name
    databases.give_back("ledger", second)
    with pytest.raises(StatementFailed, match="does not exist"):
        databases.server.execute("SELECT 1", first.name)
