"""The worker: consumes events and runs the periodic jobs."""

import asyncio
from collections.abc import Sequence

from ledger.handlers import Handlers
from ledger.jobs.archive import archive_old_transfers
from ledger.jobs.end_due import end_due_holds_and_grants
from ledger.jobs.look_up_waiting import look_up_waiting
from ledger.jobs.reconcile import reconcile_job
from ledger.repository.balance_state import BALANCE_STATE
from ledger.settings import WorkerSettings
from ledger.stripe_gateway import open_stripe_gateway
from shared.consumer import Subscription
from shared.process import Job
from shared.runtime import make_consumer_loop, run_worker, start_runtime
from shared.topics import TopicName

BATCH_RECORDS_MAX = 6_000
END_EVERY_S = 15.0
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
