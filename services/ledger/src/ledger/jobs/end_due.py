"""Ends the grants and holds whose time is over, of tenants that nothing else has touched since."""

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.core.commands import Expire
from ledger.repository.due import due_tenants_query
from ledger.workflows.apply_commands import apply_commands
from shared.outbox import Outbox


async def end_due_holds_and_grants(engine: AsyncEngine, outbox: Outbox) -> None:
    """Ends all that are due. May run anywhere, any time, twice at once: the plan looks again under the tenant's
    lock."""
    while True:
        async with outbox.transaction(engine) as transaction:
            now = transaction.now
            tenants = sorted(set(await transaction.connection.scalars(due_tenants_query(now))))
            if tenants:
                await apply_commands(transaction, [Expire(tenant) for tenant in tenants], now)
        if not tenants:
            return
