"""Runs payments' worker: which handler reads which topic, and the periodic jobs."""

import asyncio

from payments.handlers import StripeEventHandler, handle_attempts, handle_balances, handle_entries
from payments.jobs.sweeper import Sweeper
from payments.jobs.watch_credits import watch_credits_job
from payments.repository.published_states import PUBLISHED_STATES
from payments.settings import WorkerSettings
from payments.stripe_gateway import open_stripe_gateway
from payments.workflows.context import WorkflowContext
from shared.consumer import Subscription
from shared.runtime import make_consumer_loop, run_worker, start_runtime
from shared.topics import TopicName


async def run(settings: WorkerSettings, stopping: asyncio.Event) -> None:
    """Runs the worker until `stopping`."""
    url = settings.database_url_worker.get_secret_value()
    async with (
        start_runtime("payments", settings, settings, url, states=PUBLISHED_STATES) as runtime,
        open_stripe_gateway(settings) as stripe,
    ):
        signing_keys = [key.get_secret_value() for key in settings.metadata_signing_keys]
        handler = StripeEventHandler(signing_keys, runtime.clock.now)
        loop = make_consumer_loop(runtime, settings, subscriptions(handler))
        sweeper = Sweeper(WorkflowContext(runtime.engine, runtime.outbox, stripe, runtime.clock.now))
        jobs = (*sweeper.jobs(), watch_credits_job(runtime.engine, runtime.clock.now))
        await run_worker(stopping, runtime, settings, loop, jobs)


def subscriptions(stripe_events: StripeEventHandler) -> tuple[Subscription, ...]:
    """What the consumer group `payments` reads."""
    return (
        Subscription(TopicName.STRIPE_EVENTS, stripe_events.handle),
        Subscription(TopicName.ENTRY_POSTED, handle_entries),
        Subscription(TopicName.BALANCE_CHANGED, handle_balances),
        Subscription(TopicName.ATTEMPT_CHANGED, handle_attempts),
    )
