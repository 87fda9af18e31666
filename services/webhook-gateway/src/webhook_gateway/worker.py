"""The backfill process: periodically publishes what no webhook brought, and objects that the ledger lacks."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from shared.http import Readiness, create_http_app, serve
from shared.kafka import make_consumer, stop_consumer
from shared.process import Job, run_job
from shared.topics import TopicName
from webhook_gateway.connections import Connections, open_connections
from webhook_gateway.event_log import open_event_log
from webhook_gateway.jobs.backfill import EXPECTED_ERRORS, RUN_TIMEOUT_S, Backfill
from webhook_gateway.jobs.healing import GROUP, Healing
from webhook_gateway.settings import BackfillSettings

HEAL_EVERY_S = 1.0
#: Less than `max_poll_interval_ms`: Kafka removes a group member that does not fetch for that long.
HEAL_TIMEOUT_S = 120.0
#: The process is not ready after this many runs without a success.
RUNS_MISSED_MAX = 3


async def run(settings: BackfillSettings, stopping: asyncio.Event) -> None:
    """Backfills now and every `backfill_every_s`, and answers /healthz, /readyz, /metrics, until `stopping`."""
    loop = asyncio.get_running_loop()
    succeeded_at = loop.time()
    overdue_after_s = RUNS_MISSED_MAX * settings.backfill_every_s

    async def problem() -> str | None:
        if loop.time() - succeeded_at <= overdue_after_s:
            return None
        return f"No run has succeeded for {overdue_after_s:.0f} s: its log says why, as `job_failed_for_now`."

    async with open_connections(settings) as connections, _open_healing(settings, connections) as healing:
        app = create_http_app(
            "Prepaid webhook gateway, backfill",
            description="Health and metrics.",
            readiness=Readiness({"kafka": connections.producer.problem, "backfill": problem}),
        )
        backfill = Backfill(connections.stripe, connections.publisher)

        async def run_backfill() -> None:
            nonlocal succeeded_at
            async with open_event_log(settings.kafka_bootstrap_servers, settings.topic_prefix) as event_log:
                await backfill.run(event_log)
            succeeded_at = loop.time()

        jobs = (
            Job(
                "backfill",
                run_backfill,
                every_s=settings.backfill_every_s,
                timeout_s=RUN_TIMEOUT_S,
                expected_errors=EXPECTED_ERRORS,
            ),
            Job("heal", healing.run, every_s=HEAL_EVERY_S, timeout_s=HEAL_TIMEOUT_S, expected_errors=EXPECTED_ERRORS),
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(run_job(job)) for job in jobs]
            await serve(app, settings, stopping)
            for each in running:
                each.cancel()


@asynccontextmanager
async def _open_healing(settings: BackfillSettings, connections: Connections) -> AsyncGenerator[Healing]:
    """Joins the consumer group, and leaves it at the end."""
    prefix = settings.topic_prefix
    consumer = make_consumer(settings.kafka_bootstrap_servers, "webhook-gateway-healing", prefix + GROUP)
    consumer.subscribe([prefix + TopicName.STRIPE_OBJECT_MISSING])
    try:
        await consumer.start()
        yield Healing(consumer, connections.stripe, connections.publisher, connections.producer, prefix)
    finally:
        await stop_consumer(consumer)
