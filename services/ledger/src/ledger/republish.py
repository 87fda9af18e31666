"""`python -m ledger republish`: has every balance sent again, for readers that have lost theirs."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.commands import run_to_end
from shared.database import open_engine
from shared.settings import OperatorSettings
from shared.topics import TopicName

PAGE_TENANTS = 5_000

_MARK = text("""
    WITH page AS (SELECT tenant_id, version FROM balance WHERE tenant_id > :after ORDER BY tenant_id LIMIT :limit),
    marked AS (
        INSERT INTO outbox_mark (tenant_id, topic, key, version, due_at)
        SELECT tenant_id, :topic, tenant_id, version, now() FROM page
        ON CONFLICT (tenant_id, topic, key, version) DO UPDATE SET due_at = excluded.due_at
    )
    SELECT max(tenant_id) AS last, count(*) AS tenants FROM page
""")


async def republish(engine: AsyncEngine) -> int:
    """Marks all balances, page by page, and returns how many. Any running worker then sends them."""
    after, tenants = "", 0
    while True:
        async with engine.begin() as connection:
            page = (
                await connection.execute(
                    _MARK, {"after": after, "limit": PAGE_TENANTS, "topic": TopicName.BALANCE_CHANGED.value}
                )
            ).one()
        tenants += page.tenants
        if page.tenants < PAGE_TENANTS:
            return tenants
        after = page.last


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
