"""Kafka door of payments: topics → handlers, and the periodic jobs."""

import asyncio

from payments.handlers import StripeEvents, handle_attempts, handle_balances, handle_entries
from payments.jobs.sweeper import Sweeper
from payments.jobs.watch_credits import watch_credits_job
from payments.repository.packages import load_credit_packages
from payments.repository.profiles import load_billing_profiles
from payments.settings import WorkerSettings
from payments.stripe_gateway import open_stripe_gateway
from shared.consumer import Subscription
from shared.outbox_publisher import StateSource
from shared.runtime import make_consumer_loop, run_worker, start_runtime
from shared.topics import TopicName

SERVICE = "payments"

#: The state topics that this service writes; its API publishes them too.
STATES = (
    StateSource(TopicName.BILLING_PROFILE_CHANGED, load_billing_profiles),
    StateSource(TopicName.CATALOG_CHANGED, load_credit_packages),
)


async def run(settings: WorkerSettings, stopping: asyncio.Event) -> None:
    """Runs the worker until `stopping`."""
    url = settings.database_url_worker.get_secret_value()
    async with (
        start_runtime(SERVICE, settings, settings, url, states=STATES) as runtime,
        open_stripe_gateway(settings) as stripe,
    ):
        signing_keys = [key.get_secret_value() for key in settings.metadata_signing_keys]
        loop = make_consumer_loop(runtime, settings, subscriptions(StripeEvents(signing_keys, runtime.clock.now)))
        sweeper = Sweeper(runtime.engine, runtime.outbox, stripe, runtime.clock.now)
        jobs = (*sweeper.jobs(), watch_credits_job(runtime.engine, runtime.clock.now))
        await run_worker(stopping, runtime, settings, loop, jobs)


def subscriptions(stripe_events: StripeEvents) -> tuple[Subscription, ...]:
    """What the group `payments` reads."""
    return (
        Subscription(TopicName.STRIPE_EVENTS, stripe_events.handle),
        Subscription(TopicName.ENTRY_POSTED, handle_entries),
        Subscription(TopicName.BALANCE_CHANGED, handle_balances),
        Subscription(TopicName.ATTEMPT_CHANGED, handle_attempts),
    )
