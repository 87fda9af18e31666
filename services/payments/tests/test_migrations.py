"""Migrations create the tables that the code expects, can be started concurrently, and name what is missing."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic_settings import BaseSettings
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.environment import database_urls, inherited
from embedded.servers import PostgresServer
from embedded.testing import ServiceDatabase
from payments.repository.packages import load_credit_packages
from payments.repository.profiles import load_billing_profiles
from payments.repository.tables import metadata
from payments.settings import AppSettings, RepublishSettings, WorkerSettings
from shared.database import DatabaseUnavailable, make_engine
from shared.migrations import MigrateSettings, migrate
from shared.settings import InvalidSettings, load_settings

EMPTY = "payments_migration_test"


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The owner's URL of an empty database."""
    postgres_server.execute(f"CREATE DATABASE {EMPTY} OWNER payments_owner")
    yield database_urls(postgres_server, "payments", EMPTY)["DATABASE_URL_OWNER"]
    postgres_server.execute(f"DROP DATABASE {EMPTY} WITH (FORCE)")


async def migrate_to(revision: str, database_url_owner: str) -> None:
    """Migrates a database to an older revision."""

    def upgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "payments:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = make_engine(database_url_owner, application_name="payments-test-older", pool_size=1)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()


async def test_migrated_tables_match_the_metadata(database: ServiceDatabase) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [each for each in compare_metadata(context, metadata) if "alembic_version" not in str(each)]

    engine = make_engine(database.owner_url, application_name="payments-test-compare", pool_size=1)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


def test_each_migration_file_is_named_after_its_revision() -> None:
    """Databases have stored these revisions: a file may get another name, never another revision."""
    config = Config()
    config.set_main_option("script_location", "payments:migrations")
    config.set_main_option("path_separator", "os")
    revisions = list(ScriptDirectory.from_config(config).walk_revisions())
    assert [each.revision for each in reversed(revisions)][:5] == ["0001", "0002", "0003", "0004", "0005"]
    assert all(Path(each.path).name.startswith(f"{each.revision}_") for each in revisions)


async def test_a_database_migrated_by_an_older_version_is_migrated_on(
    empty_database: str, postgres_server: PostgresServer
) -> None:
    await migrate_to("0005", empty_database)
    await migrate("payments", empty_database, timeout_s=30)
    assert postgres_server.execute("SELECT version_num FROM alembic_version", EMPTY).strip() >= "0005"


async def test_concurrent_and_repeated_migrations_succeed(empty_database: str) -> None:
    await asyncio.gather(*(migrate("payments", empty_database, timeout_s=30) for _ in range(3)))
    await migrate("payments", empty_database, timeout_s=30)


async def test_a_purchase_written_by_the_previous_version_is_not_insisted(
    empty_database: str, postgres_server: PostgresServer
) -> None:
    def insert_as_the_previous_version(purchase: str) -> None:
        postgres_server.execute(
            f"""
            INSERT INTO purchase (tenant_id, purchase_id, state, credits, amount_minor, currency, create_parameters,
                                  created_by, created_at)
            VALUES ('acme', '{purchase}', 'open', 1, 1, 'usd', '{{}}', 'u', now())
            """,
            EMPTY,
        )

    await migrate_to("0002", empty_database)
    insert_as_the_previous_version("pur_1")
    await migrate("payments", empty_database, timeout_s=30)
    insert_as_the_previous_version("pur_2")
    found = postgres_server.execute("SELECT purchase_id, insisted FROM purchase ORDER BY 1", EMPTY)
    assert found.splitlines() == ["pur_1|f", "pur_2|f"]


async def test_migration_without_postgresql_waits_and_then_fails_with_a_reason() -> None:
    with pytest.raises(DatabaseUnavailable, match="did not answer within"):
        await migrate("payments", "postgresql://payments_owner:x@127.0.0.1:1/payments", timeout_s=0.3)


async def test_seeded_packages_are_marked_for_publishing(worker_engine: AsyncEngine, rows: Callable[..., Any]) -> None:
    marks = await rows("SELECT key FROM outbox_mark WHERE tenant_id = '' AND topic = 'payments.catalog-changed'")
    async with worker_engine.connect() as connection:
        states = await load_credit_packages(connection, [mark.key for mark in marks])
        assert await load_billing_profiles(connection, ["nobody"]) == {}
    assert len(states) >= 4 and all(version == 1 for version, _ in states.values())


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (MigrateSettings, ["DATABASE_URL_OWNER"]),
        (RepublishSettings, ["DATABASE_URL_WORKER"]),
        (WorkerSettings, ["DATABASE_URL_WORKER", "KAFKA_BOOTSTRAP_SERVERS", "STRIPE_SECRET_KEY",
                          "METADATA_SIGNING_KEYS"]),
        (AppSettings, ["DATABASE_URL_API", "DATABASE_URL_WORKER", "HTTP_PORT", "KAFKA_BOOTSTRAP_SERVERS",
                       "STRIPE_SECRET_KEY", "METADATA_SIGNING_KEYS", "STRIPE_PUBLISHABLE_KEY"]),
    ],
)  # fmt: skip
def test_all_missing_variables_are_named_at_once(
    settings: type[BaseSettings], missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidSettings) as named:
        load_settings(settings, env_file=None)
    assert [name for name in missing if name not in str(named.value)] == []


def test_a_process_without_its_variables_exits_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "payments", "app"], env=inherited(), capture_output=True, text=True, timeout=60,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, "STRIPE_SECRET_KEY" in done.stderr) == (2, True)
