"""`python -m recharge migrate`: brings the database to the newest revision; several at once wait for each other."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from shared.database import make_engine, wait_for_database
from shared.logs import get_logger

log = get_logger()

#: Any number, the same for all who migrate this database.
ADVISORY_LOCK = 7_203_011
WAIT_TIMEOUT_S = 60.0


async def migrate(database_url_owner: str) -> None:
    """Applies what is missing. Raises `DatabaseUnavailable`, or a time-out where another migration does not end."""
    engine = make_engine(database_url_owner, application_name="recharge-migrate", pool_size=1)
    try:
        await wait_for_database(engine, WAIT_TIMEOUT_S)
        async with asyncio.timeout(WAIT_TIMEOUT_S), engine.connect() as connection:
            await connection.execute(text("SET statement_timeout = 0"))
            await connection.execute(text("SET lock_timeout = '60s'"))
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK})
            await connection.commit()
            await connection.run_sync(_upgrade)
            await connection.commit()
            await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": ADVISORY_LOCK})
    finally:
        await engine.dispose()
    log.info("migrated")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
