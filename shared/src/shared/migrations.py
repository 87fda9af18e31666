"""`python -m <service> migrate`: migrates a service's database. Several processes may run it at the same time."""

import asyncio
import hashlib

from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.database import DatabaseUnavailable, make_engine, wait_for_database
from shared.logs import get_logger
from shared.process import run_process
from shared.settings import OwnerDatabaseSettings, load_settings

log = get_logger()

LOCK_POLL_S = 0.2
#: Building an index on a large table takes long. The lock time-out stays short, because a waiting lock blocks others.
STATEMENT_TIMEOUT_MS = 30 * 60 * 1_000


class StillRunning(Exception):
    """Processes of the previous version still write what this migration changes. The message says which to stop."""


class MigrateSettings(OwnerDatabaseSettings):
    log_level: str = "info"
    start_timeout_s: float = 60.0


def run_migrate(service: str) -> int:
    """Migrates the database that the environment's settings name, and returns the exit code."""
    settings = load_settings(MigrateSettings)
    url = settings.database_url_owner.get_secret_value()
    return run_process(
        service,
        settings.log_level,
        lambda _stopping: migrate(service, url, settings.start_timeout_s),
        (StillRunning,),
    )


async def migrate(service: str, database_url_owner: str, timeout_s: float) -> None:
    """Applies the pending revisions of `<service>:migrations` in one transaction.

    Waits at most `timeout_s` for PostgreSQL, and as long again for another migration of the same service; then raises
    `DatabaseUnavailable`. Raises `StillRunning`, without a change, if a revision requires the service to be stopped.
    """
    engine = make_engine(
        database_url_owner,
        application_name=f"{service}-migrate",
        pool_size=1,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
    )
    try:
        await wait_for_database(engine, timeout_s)
        async with engine.begin() as connection:
            await _lock(service, connection, timeout_s)
            await connection.run_sync(_upgrade, service)
            await connection.execute(_REVOKE_TEMPORARY_TABLES)
        log.info("migrated")
    finally:
        await engine.dispose()


# A temporary table could shadow a table that a SECURITY DEFINER function uses, and no service needs one. The migration
# revokes the right, because the database may have been created by Compose, by an operator or by the embedded stack.
_REVOKE_TEMPORARY_TABLES = text("""
    DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()); END $$
""")


def refuse_while_running(service: str) -> None:
    """Raises `StillRunning` while a process of the service is connected. For revisions that older writers would
    corrupt."""
    count: int = op.get_bind().scalar(_WRITERS, {"name": f"{service}-worker-role"}) or 0
    if count:
        raise StillRunning(
            f"The {service} is running ({count} of its connections are open), and its older version would write what "
            f"this migration changes. Stop every {service} process, migrate, and start the new version."
        )


_WRITERS = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name
""")


async def _lock(service: str, connection: AsyncConnection, timeout_s: float) -> None:
    key = int.from_bytes(hashlib.sha256(f"migrate {service}".encode()).digest()[:8], signed=True)
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}):
        if asyncio.get_running_loop().time() > deadline:
            raise DatabaseUnavailable(
                f"Another migration has held its lock for {timeout_s:.0f} s: "
                f"look for '{service}-migrate' in pg_stat_activity."
            )
        await asyncio.sleep(LOCK_POLL_S)


def _upgrade(connection: Connection, service: str) -> None:
    config = Config()
    config.set_main_option("script_location", f"{service}:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
