"""`python -m recharge unfreeze TENANT`: for an operator who has replayed or dropped a dead letter."""

from argparse import Namespace

from recharge.repository.profiles import unfreeze
from shared.commands import run_to_end
from shared.database import open_engine
from shared.settings import OperatorSettings


def run(settings: OperatorSettings, options: Namespace) -> int:
    """Lifts the freeze; 0 if there was one, else 1."""

    async def work() -> int:
        url = settings.database_url_worker.get_secret_value()
        async with (
            open_engine(url, application_name="recharge-unfreeze", start_timeout_s=settings.start_timeout_s) as engine,
            engine.begin() as connection,
        ):
            was_frozen = await unfreeze(connection, options.tenant)
        print(f"{options.tenant} is charged again" if was_frozen else f"{options.tenant} was not frozen")  # noqa: T201
        return 0 if was_frozen else 1

    return run_to_end("recharge", settings.log_level, work)
