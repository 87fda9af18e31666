"""`python -m ledger republish`: publishes every balance again, for consumers that have lost theirs."""

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.repository.balances import mark_balances
from shared.commands import run_to_end
from shared.database import open_engine
from shared.settings import OperatorSettings

PAGE_TENANTS = 5_000


async def republish(engine: AsyncEngine) -> int:
    """Marks all balances, page by page, and returns how many. Any running worker then sends them."""
    after, tenants = "", 0
    while True:
        async with engine.begin() as connection:
            after, page_tenants = await mark_balances(connection, after=after, limit=PAGE_TENANTS)
        tenants += page_tenants
        if page_tenants < PAGE_TENANTS:
            return tenants


def run(settings: OperatorSettings) -> int:
    """Marks all balances and says how many."""

    async def work() -> int:
        url = settings.database_url_worker.get_secret_value()
        async with open_engine(
            url, application_name="ledger-republish", start_timeout_s=settings.start_timeout_s
        ) as engine:
            tenants = await republish(engine)
        print(f"{tenants} balances are marked; a running worker sends them.")  # noqa: T201  # a command's answer
        return 0

    return run_to_end("ledger", settings.log_level, work)
