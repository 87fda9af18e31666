"""`python -m payments republish`: publishes every profile and package again, for consumers that lost theirs."""

from payments.repository import profiles
from payments.settings import RepublishSettings
from shared.commands import run_to_end
from shared.database import open_engine
from shared.logs import get_logger

log = get_logger()


def run(settings: RepublishSettings) -> int:
    """Marks all of them. The running workers publish them within seconds."""

    async def mark() -> int:
        url = settings.database_url_worker.get_secret_value()
        async with (
            open_engine(url, application_name="payments-republish", start_timeout_s=settings.start_timeout_s) as engine,
            engine.begin() as connection,
        ):
            marked = await profiles.mark_all_for_publishing(connection)
        log.info("marked_for_publishing", states=marked)
        return 0

    return run_to_end("payments", settings.log_level, mark)
