"""The Kafka door: topics to handlers, the executor beside them, and the periodic jobs."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from recharge.handlers import (
    freeze_tenant_of_dead_letter,
    on_balances,
    on_billing_profiles,
    on_entries,
    on_packages,
    on_refused_reversals,
    on_requests,
)
from recharge.repository.inputs import save_progress
from recharge.repository.situations import due_tenants, lock_tenants
from recharge.settings import WorkerSettings
from recharge.stripe_gateway import open_stripe_gateway
from recharge.stripe_handlers import StripeEvents, freeze_payer_of_dead_letter
from recharge.workflows.decide_tenants import decide_tenants
from recharge.workflows.executor import Executor, WakingPublisher
from recharge.workflows.rate_limiter import RateLimiter
from recharge.workflows.steps import StepRunner
from shared.consumer import ConsumerLoop, Subscription
from shared.outbox import Outbox
from shared.process import Job
from shared.runtime import Runtime, make_consumer_loop, run_worker, start_runtime
from shared.topics import TopicName

DECIDE_AGAIN_EVERY_S = 1.0
PROGRESS_EVERY_S = 1.0
TENANTS_AT_ONCE_MAX = 500
#: The consumer's, the publisher's and the jobs' connections; the executor's come on top.
OWN_CONNECTIONS = 6


async def run(settings: WorkerSettings, stopping: asyncio.Event) -> None:
    """Consumes, decides and charges until `stopping`."""
    wake = asyncio.Event()
    async with (
        start_runtime(
            "recharge",
            settings,
            settings,
            settings.database_url_worker.get_secret_value(),
            pool_size=OWN_CONNECTIONS + settings.recharge_charges_at_once,
        ) as plain,
        open_stripe_gateway(settings) as gateway,
    ):
        runtime = replace(plain, outbox=Outbox(WakingPublisher(plain.publisher, wake)))
        signing_keys = [key.get_secret_value() for key in settings.metadata_signing_keys]
        loop = make_consumer_loop(runtime, settings, subscriptions(signing_keys))
        steps = StepRunner(
            engine=runtime.engine,
            outbox=runtime.outbox,
            gateway=gateway,
            rate_limiter=RateLimiter(settings.recharge_stripe_requests_per_s),
            signing_keys=signing_keys,
        )
        executor = Executor(runtime.engine, steps, wake, runtime.clock, at_once=settings.recharge_charges_at_once)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(executor.run(stopping))
            await run_worker(stopping, runtime, settings, loop, jobs(runtime, loop))


def subscriptions(signing_keys: Sequence[str]) -> tuple[Subscription, ...]:
    """What the service reads."""
    return (
        Subscription(TopicName.BALANCE_CHANGED, on_balances),
        Subscription(TopicName.ENTRY_POSTED, on_entries),
        Subscription(TopicName.REVERSAL_REFUSED, on_refused_reversals, on_dead_letter=freeze_tenant_of_dead_letter),
        Subscription(
            TopicName.BILLING_PROFILE_CHANGED, on_billing_profiles, on_dead_letter=freeze_tenant_of_dead_letter
        ),
        Subscription(TopicName.CATALOG_CHANGED, on_packages),
        Subscription(TopicName.RECHARGE_REQUESTED, on_requests, on_dead_letter=freeze_tenant_of_dead_letter),
        Subscription(
            TopicName.STRIPE_EVENTS, StripeEvents(signing_keys).handle, on_dead_letter=freeze_payer_of_dead_letter
        ),
    )


def jobs(runtime: Runtime, loop: ConsumerLoop) -> tuple[Job, ...]:
    """What goes on without events: noting how fresh the inputs are, and deciding again when time has passed."""

    async def note_progress() -> None:
        topic = TopicName.BILLING_PROFILE_CHANGED
        caught_up = [(of, partition, at) for (of, partition), at in loop.caught_up_at.items() if of is topic]
        async with runtime.engine.begin() as connection:
            await save_progress(connection, caught_up)

    async def decide_again() -> None:
        async with runtime.outbox.transaction(runtime.engine) as transaction:
            now = transaction.now
            due = await due_tenants(transaction.connection, now, TENANTS_AT_ONCE_MAX)
            await lock_tenants(transaction.connection, due)
            await decide_tenants(transaction, due, now)

    return (
        Job("note_progress", note_progress, every_s=PROGRESS_EVERY_S),
        Job("decide_again", decide_again, every_s=DECIDE_AGAIN_EVERY_S),
    )
