"""`python -m ledger migrate`: brings the database to this version, once, however many start it."""

import asyncio

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.settings import MigrateSettings
from shared.database import DatabaseUnavailable, make_engine, wait_for_database
from shared.logs import configure_logging, get_logger

log = get_logger()

#: Of all migrators of this database; any constant will do ("ledger" in ASCII).
ADVISORY_LOCK = 0x6C6564676572
LOCK_POLL_S = 0.2


def run(settings: MigrateSettings) -> int:
    """Migrates and returns the exit code: 1, with the reason in the log, where the database cannot be reached."""
    configure_logging("ledger", settings.log_level)
    try:
        asyncio.run(migrate(settings.database_url_owner.get_secret_value(), settings.start_timeout_s))
    except DatabaseUnavailable as error:
        log.critical("cannot_migrate", reason=str(error))
        return 1
    return 0


async def migrate(database_url_owner: str, timeout_s: float) -> None:
    """Applies what is missing in one transaction. Waits at most `timeout_s` for PostgreSQL and for another migrator."""
    engine = make_engine(database_url_owner, application_name="ledger-migrate", pool_size=1)
    try:
        await wait_for_database(engine, timeout_s)
        async with engine.begin() as connection:
            await _lock(connection, timeout_s)
            await connection.run_sync(_upgrade)
        log.info("migrated")
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK}):
        if asyncio.get_running_loop().time() > deadline:
            raise DatabaseUnavailable(
                f"Another migration has held its lock for {timeout_s:.0f} s. See pg_stat_activity for 'ledger-migrate'."
            )
        await asyncio.sleep(LOCK_POLL_S)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "ledger:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
