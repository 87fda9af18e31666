"""Kafka door: topics to handlers, and the sweep for grants whose time is over."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.apply import apply
from ledger.balance_state import BALANCE_STATE
from ledger.core.commands import Expire
from ledger.handlers import Handlers
from ledger.settings import WorkerSettings
from ledger.tables import credit_grant
from shared.clock import utc_now
from shared.consumer import Subscription
from shared.outbox import Outbox
from shared.process import Job
from shared.runtime import make_consumer_loop, run_worker, start_runtime
from shared.topics import TopicName

EXPIRE_EVERY_S = 30.0
EXPIRE_TENANTS_MAX = 500


async def run(settings: WorkerSettings, stopping: asyncio.Event) -> None:
    """Runs the worker until `stopping`."""
    handlers = Handlers([key.get_secret_value() for key in settings.metadata_signing_keys])
    async with start_runtime(
        "ledger", settings, settings, settings.database_url_worker.get_secret_value(), states=[BALANCE_STATE]
    ) as runtime:
        loop = make_consumer_loop(runtime, settings, subscriptions(handlers))

        async def expire() -> None:
            await expire_due_grants(runtime.engine, runtime.outbox)

        await run_worker(stopping, runtime, settings, loop, [Job("expire_grants", expire, every_s=EXPIRE_EVERY_S)])


def subscriptions(handlers: Handlers) -> Sequence[Subscription]:
    """The topics that the ledger reads."""
    return (
        Subscription(TopicName.STRIPE_EVENTS, handlers.on_stripe_events),
        Subscription(TopicName.USAGE_RECORDED, handlers.on_usage),
    )


async def expire_due_grants(engine: AsyncEngine, outbox: Outbox) -> None:
    """Expires grants of tenants that nothing else has touched since. May run anywhere, any time, twice at once: the
    plan looks again under the tenant's lock."""
    while True:
        now = utc_now()
        async with outbox.transaction(engine) as transaction:
            tenants = sorted(set(await transaction.connection.scalars(due_tenants_query(now))))
            if tenants:
                await apply(transaction, [Expire(tenant) for tenant in tenants], now)
        if not tenants:
            return


def due_tenants_query(now: datetime) -> Select[str]:
    """Tenants of the grants that are due longest."""
    return (
        select(credit_grant.c.tenant_id)
        .where(~credit_grant.c.spent, credit_grant.c.expires_at <= now)
        .order_by(credit_grant.c.expires_at)
        .limit(EXPIRE_TENANTS_MAX)
    )
