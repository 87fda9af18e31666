"""The worker: consumes events and runs the periodic jobs."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CompoundSelect, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.apply import apply_commands
from ledger.archive import archive_old_transfers
from ledger.balance_state import BALANCE_STATE
from ledger.core.commands import Expire
from ledger.handlers import Handlers
from ledger.reconcile_job import reconcile_job
from ledger.settings import WorkerSettings
from ledger.stripe_gateway import open_stripe_gateway
from ledger.tables import credit_grant, hold
from ledger.waiting_reversals import look_up_waiting
from shared.consumer import Subscription
from shared.outbox import Outbox
from shared.process import Job
from shared.runtime import make_consumer_loop, run_worker, start_runtime
from shared.topics import TopicName

BATCH_RECORDS_MAX = 6_000
END_EVERY_S = 15.0
END_TENANTS_MAX = 500
ARCHIVE_EVERY_S = 3_600.0
ARCHIVE_TIMEOUT_S = 1_800.0
LOOK_UP_EVERY_S = 3_600.0
LOOK_UP_TIMEOUT_S = 900.0


async def run(settings: WorkerSettings, stopping: asyncio.Event) -> None:
    """Runs the worker until `stopping`."""
    signing_keys = [key.get_secret_value() for key in settings.metadata_signing_keys]
    handlers = Handlers(signing_keys)
    async with (
        start_runtime(
            "ledger", settings, settings, settings.database_url_worker.get_secret_value(), states=[BALANCE_STATE]
        ) as runtime,
        open_stripe_gateway(settings) as gateway,
    ):
        loop = make_consumer_loop(runtime, settings, subscriptions(handlers), BATCH_RECORDS_MAX)

        async def end() -> None:
            await end_due_holds_and_grants(runtime.engine, runtime.outbox)

        async def archive() -> None:
            await archive_old_transfers(runtime.engine)

        async def look_up() -> None:
            await look_up_waiting(runtime.engine, runtime.outbox, gateway, signing_keys)

        await run_worker(
            stopping,
            runtime,
            settings,
            loop,
            [
                Job("end_what_is_due", end, every_s=END_EVERY_S),
                Job("archive", archive, every_s=ARCHIVE_EVERY_S, timeout_s=ARCHIVE_TIMEOUT_S),
                Job("look_up_waiting", look_up, every_s=LOOK_UP_EVERY_S, timeout_s=LOOK_UP_TIMEOUT_S),
                reconcile_job(
                    runtime.engine, gateway, signing_keys,
                    every_s=settings.reconcile_every_s, days=settings.reconcile_days,
                ),
            ],
        )  # fmt: skip


def subscriptions(handlers: Handlers) -> Sequence[Subscription]:
    """The topics that the ledger reads."""
    return (
        Subscription(TopicName.STRIPE_EVENTS, handlers.on_stripe_events),
        Subscription(TopicName.USAGE_RECORDED, handlers.on_usage),
    )


async def end_due_holds_and_grants(engine: AsyncEngine, outbox: Outbox) -> None:
    """Ends grants and holds of tenants that nothing else has touched since. May run anywhere, any time, twice at once:
    the plan looks again under the tenant's lock."""
    while True:
        async with outbox.transaction(engine) as transaction:
            now = transaction.now
            tenants = sorted(set(await transaction.connection.scalars(due_tenants_query(now))))
            if tenants:
                await apply_commands(transaction, [Expire(tenant) for tenant in tenants], now)
        if not tenants:
            return


def due_tenants_query(now: datetime) -> CompoundSelect[str]:
    """Some tenants with a grant or a hold that is due."""
    of_grants = select(credit_grant.c.tenant_id).where(
        ~credit_grant.c.spent,
        credit_grant.c.expires_at.is_not(None),
        credit_grant.c.expires_at <= now,
        credit_grant.c.remaining > credit_grant.c.paid_by_others,
    )
    of_holds = select(hold.c.tenant_id).where(hold.c.status == text("'open'"), hold.c.expires_at <= now)
    return union_all(of_grants.limit(END_TENANTS_MAX), of_holds.limit(END_TENANTS_MAX))
