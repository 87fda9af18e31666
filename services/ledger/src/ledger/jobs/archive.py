"""Moves transfers whose references are no longer kept into the archive, a partition a month.

This blocks nobody: transfers never change, and the references of those that are moved no longer count. They stay
readable through the view `entry`. The database refuses to move younger ones (`migrations.archive`).
"""

from prometheus_client import Counter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.core.retention import archive_before
from shared.clock import transaction_time

PAGE_TENANTS = 200
ROWS_MAX = 5_000

_archived = Counter("ledger_archived_transfers_total", "Transfers moved to the archive.")

_PAGE = text("SELECT tenant_id FROM balance WHERE tenant_id > :after ORDER BY tenant_id LIMIT :limit")
_ARCHIVE = text("SELECT archive_transfers(CAST(:tenants AS text[]), :before, :rows_max)")


async def archive_old_transfers(engine: AsyncEngine) -> int:
    """Moves all that is due, a few thousand at a time, and returns how many. Repeatable, and may stop anywhere."""
    async with engine.connect() as connection:
        before = archive_before(await transaction_time(connection))
    after, moved = "", 0
    while True:
        async with engine.begin() as connection:
            tenants = list(await connection.scalars(_PAGE, {"after": after, "limit": PAGE_TENANTS}))
        if not tenants:
            return moved
        page_moved = ROWS_MAX
        while page_moved == ROWS_MAX:
            async with engine.begin() as connection:
                values = {"tenants": tenants, "before": before, "rows_max": ROWS_MAX}
                page_moved = (await connection.execute(_ARCHIVE, values)).scalar_one()
            _archived.inc(page_moved)
            moved += page_moved
        after = tenants[-1]
