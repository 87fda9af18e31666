"""The worker process: the consumer with its handlers, the executor, and the periodic jobs."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from recharge.handlers import (
    StripeEventHandler,
    freeze_payer_of_dead_letter,
    freeze_tenant_of_dead_letter,
    on_balances,
    on_billing_profiles,
    on_entries,
    on_packages,
    on_refused_reversals,
    on_requests,
)
from recharge.jobs.decide_again import decide_again_job
from recharge.jobs.note_progress import note_progress_job
from recharge.settings import WorkerSettings
from recharge.stripe_gateway import open_stripe_gateway
from recharge.workflows.executor import Executor, WakingPublisher
from recharge.workflows.rate_limiter import RateLimiter
from recharge.workflows.steps import StepRunner
from shared.consumer import ConsumerLoop, Subscription
from shared.outbox import Outbox
from shared.process import Job
from shared.runtime import Runtime, make_consumer_loop, run_worker, start_runtime
from shared.topics import TopicName

#: Connections of the consumer, the publisher and the jobs. The executor has more of its own.
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
    """Which topics the service reads, and who handles them."""
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
            TopicName.STRIPE_EVENTS,
            StripeEventHandler(signing_keys).handle,
            on_dead_letter=freeze_payer_of_dead_letter,
        ),
    )


def jobs(runtime: Runtime, loop: ConsumerLoop) -> tuple[Job, ...]:
    """What runs periodically."""
    return note_progress_job(runtime, loop), decide_again_job(runtime)
