"""Counts and logs paid purchases without an entry in the ledger.

A paid purchase has its entry within seconds. After 10 minutes without one, its event was lost on the way to the ledger
or is a dead letter there.
"""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from payments.metrics import paid_not_credited
from payments.repository import paid_purchases
from shared.logs import get_logger
from shared.process import Job

log = get_logger()

EVERY_S = 30.0
LOGGED_MAX = 20


def watch_credits_job(engine: AsyncEngine, clock: Callable[[], datetime]) -> Job:
    """The job. `engine` has the worker's role."""

    async def run() -> None:
        async with engine.begin() as connection:
            await paid_purchases.stop_watching_credited(connection)
            late = await paid_purchases.load_overdue(connection, clock())
        paid_not_credited.set(len(late))
        for purchase in late[:LOGGED_MAX]:
            log.error(
                "purchase_paid_not_credited", tenant=purchase.tenant_id, purchase=purchase.purchase_id,
                payment_intent=purchase.payment_intent,
            )  # fmt: skip

    return Job("watch_credits", run, every_s=EVERY_S)
