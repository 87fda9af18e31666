"""Runs the migrations: one process at a time, once PostgreSQL answers."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from shared.database import DatabaseUnavailable, make_engine, wait_for_database
from shared.logs import get_logger

log = get_logger()

#: Any constant of ours: whoever holds it migrates.
LOCK_KEY = 7_261_640_001
LOCK_POLL_S = 0.5


async def migrate(url: str, timeout_s: float) -> None:
    """Brings the database to the newest version; raises `DatabaseUnavailable` after `timeout_s` without a turn."""
    engine = make_engine(url, application_name="payments-migrate", pool_size=2)
    try:
        await wait_for_database(engine, timeout_s)
        async with engine.connect() as guard, asyncio.timeout(timeout_s):
            while not (await guard.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY})).scalar_one():
                await guard.rollback()
                log.info("waiting_for_other_migration")
                await asyncio.sleep(LOCK_POLL_S)
            await guard.commit()
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade)
    except TimeoutError as error:
        raise DatabaseUnavailable(
            f"Migrations did not end within {timeout_s:.0f} s. Check for another `python -m payments migrate`."
        ) from error
    finally:
        await engine.dispose()
    log.info("migrated")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
