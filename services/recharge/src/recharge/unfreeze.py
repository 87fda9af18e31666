"""`python -m recharge unfreeze TENANT`: for an operator who has replayed or dropped a dead letter."""

import sys

from pydantic_settings import SettingsConfigDict

from recharge.repository.inputs import unfreeze
from shared.database import make_engine
from shared.settings import WorkerDatabaseSettings, load_settings


class UnfreezeSettings(WorkerDatabaseSettings):
    """Only the database."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)


async def unfreeze_tenant(tenant: str) -> int:
    """Lifts the freeze; 0 where there was one, 1 where there was none."""
    settings = load_settings(UnfreezeSettings)
    engine = make_engine(settings.database_url_worker.get_secret_value(), application_name="recharge-unfreeze")
    try:
        async with engine.begin() as connection:
            was_frozen = await unfreeze(connection, tenant)
    finally:
        await engine.dispose()
    sys.stdout.write(f"{tenant} is charged again\n" if was_frozen else f"{tenant} was not frozen\n")
    return 0 if was_frozen else 1
