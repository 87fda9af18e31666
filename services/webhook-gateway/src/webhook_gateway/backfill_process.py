"""The backfill as a process: every few minutes, or once. Beside it, what the books lack is published when asked for."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from shared.http import Readiness, create_http_app, serve
from shared.kafka import make_producer
from shared.process import Job, run_job, wait_for_kafka
from shared.producer import Producer
from shared.topics import TopicName
from webhook_gateway.backfill import Backfill
from webhook_gateway.event_log import open_event_log
from webhook_gateway.healing import open_healing
from webhook_gateway.publisher import EventPublisher, NotPublished
from webhook_gateway.settings import BackfillSettings
from webhook_gateway.stripe_gateway import StripeGateway, StripeRefused, open_stripe_gateway

RUN_TIMEOUT_S = 900.0
HEAL_EVERY_S = 1.0
#: Less than `max_poll_interval_ms`: a member of a group that does not fetch for that long is left out.
HEAL_TIMEOUT_S = 120.0
#: So many runs in a row may fail before the process says that it is not ready.
RUNS_MISSED_MAX = 3
#: What may keep a backfill from its end without anything being broken here.
BACKFILL_REASONS = (StripeRefused, NotPublished, KafkaError)


async def run(settings: BackfillSettings, stopping: asyncio.Event) -> None:
    """Backfills now and every `backfill_every_s`, and answers /healthz, /readyz, /metrics, until `stopping`."""
    loop = asyncio.get_running_loop()
    succeeded_at = loop.time()
    overdue_after_s = RUNS_MISSED_MAX * settings.backfill_every_s

    async def problem() -> str | None:
        if loop.time() - succeeded_at <= overdue_after_s:
            return None
        return f"No run has succeeded for {overdue_after_s:.0f} s: its log says why, as `job_failed_for_now`."

    async with (
        _open(settings) as opened,
        open_healing(
            settings.kafka_bootstrap_servers, settings.topic_prefix, opened.stripe, opened.publisher, opened.producer
        ) as healing,
    ):
        app = create_http_app(
            "Prepaid webhook gateway, backfill",
            description="Health and metrics.",
            readiness=Readiness({"kafka": opened.producer.problem, "backfill": problem}),
        )

        async def backfill() -> None:
            nonlocal succeeded_at
            await _run(opened.backfill, settings)
            succeeded_at = loop.time()

        jobs = (
            Job(
                "backfill",
                backfill,
                every_s=settings.backfill_every_s,
                timeout_s=RUN_TIMEOUT_S,
                reasons=BACKFILL_REASONS,
            ),
            Job("heal", healing.run, every_s=HEAL_EVERY_S, timeout_s=HEAL_TIMEOUT_S, reasons=BACKFILL_REASONS),
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(run_job(job)) for job in jobs]
            await serve(app, settings, stopping)
            for each in running:
                each.cancel()


async def run_once(settings: BackfillSettings, _stopping: asyncio.Event) -> None:
    """One run. Raises what kept it from its end."""
    async with _open(settings) as opened, asyncio.timeout(RUN_TIMEOUT_S):
        await _run(opened.backfill, settings)


async def _run(backfill: Backfill, settings: BackfillSettings) -> None:
    async with open_event_log(settings.kafka_bootstrap_servers, settings.topic_prefix) as event_log:
        await backfill.run(event_log)


@dataclass(frozen=True, slots=True)
class _Opened:
    producer: Producer
    publisher: EventPublisher
    stripe: StripeGateway
    backfill: Backfill


@asynccontextmanager
async def _open(settings: BackfillSettings) -> AsyncGenerator[_Opened]:
    producer = Producer(lambda: make_producer(settings.kafka_bootstrap_servers, "webhook-gateway-backfill"))
    publisher = EventPublisher(producer, settings.topic_prefix + TopicName.STRIPE_EVENTS)
    try:
        await wait_for_kafka(
            producer, settings.kafka_bootstrap_servers, settings.topic_prefix, settings.start_timeout_s
        )
        async with open_stripe_gateway(settings) as stripe:
            yield _Opened(producer, publisher, stripe, Backfill(stripe, publisher))
    finally:
        await producer.stop()
