"""The connections that API and worker processes share: database, producer and outbox; and their main functions."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import DatabaseClock
from shared.consumer import ConsumerLoop, Subscription
from shared.database import is_transient, make_engine, wait_for_database
from shared.garbage import tune_garbage_collector
from shared.groups import Group
from shared.http import Readiness, create_http_app, serve
from shared.kafka import make_consumer, make_producer
from shared.outbox import Outbox
from shared.outbox_publisher import OutboxPublisher, StateSource
from shared.process import Job, run_job, wait_for_kafka
from shared.producer import Producer
from shared.settings import KafkaSettings, ProcessSettings

DRAIN_TIMEOUT_S = 3.0
SWEEP_EVERY_S = 1.0
OBSERVE_EVERY_S = 3.0
CLOCK_RETRY_DELAY_S = 0.2


@dataclass(frozen=True, slots=True)
class Runtime:
    """The connections of one process. `engine` connects with the service's `*_worker` role."""

    service: str
    engine: AsyncEngine
    producer: Producer
    outbox: Outbox
    publisher: OutboxPublisher
    readiness: Readiness
    clock: DatabaseClock


@asynccontextmanager
async def start_runtime(
    service: str,
    process: ProcessSettings,
    kafka: KafkaSettings,
    database_url_worker: str,
    *,
    states: Iterable[StateSource] = (),
    pool_size: int = 6,
) -> AsyncGenerator[Runtime]:
    """Connects to PostgreSQL and Kafka, and disconnects at the end. Waits at most `start_timeout_s` for each."""
    engine = make_engine(database_url_worker, application_name=f"{service}-worker-role", pool_size=pool_size)
    producer = Producer(lambda: make_producer(kafka.kafka_bootstrap_servers, service))
    try:
        await wait_for_database(engine, process.start_timeout_s)
        await wait_for_kafka(producer, kafka.kafka_bootstrap_servers, kafka.topic_prefix, process.start_timeout_s)
        publisher = OutboxPublisher(engine, producer, service=service, topic_prefix=kafka.topic_prefix, states=states)
        clock = DatabaseClock(engine)
        await _wait_for_clock(clock, process.start_timeout_s)
        runtime = Runtime(service, engine, producer, Outbox(publisher), publisher, Readiness(), clock)
        runtime.readiness.checks["clock"] = clock.problem
        runtime.readiness.checks["postgresql"] = lambda: _database_answers(engine)
        yield runtime
    finally:
        await producer.stop()
        await engine.dispose()


async def run_api(stopping: asyncio.Event, runtime: Runtime, app: Any, process: ProcessSettings) -> None:
    """Serves the app and publishes what its requests commit, until `stopping` is set."""
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(runtime.publisher.run())
        measuring = tasks.create_task(run_job(_clock_job(runtime)))
        tune_garbage_collector()
        await serve(app, process, stopping)
        await runtime.publisher.drain(DRAIN_TIMEOUT_S)
        publishing.cancel()
        measuring.cancel()


def make_consumer_loop(
    runtime: Runtime, kafka: KafkaSettings, subscriptions: Sequence[Subscription], batch_records_max: int = 500
) -> ConsumerLoop:
    """Creates the consumer loop of this service's group."""
    group = kafka.topic_prefix + runtime.service
    return ConsumerLoop(
        make_consumer(kafka.kafka_bootstrap_servers, runtime.service, group),
        group=Group(kafka.kafka_bootstrap_servers, runtime.service, kafka.topic_prefix),
        subscriptions=subscriptions,
        engine=runtime.engine,
        outbox=runtime.outbox,
        producer=runtime.producer,
        topic_prefix=kafka.topic_prefix,
        batch_records_max=batch_records_max,
        clock=runtime.clock.now,
    )


async def run_worker(
    stopping: asyncio.Event,
    runtime: Runtime,
    process: ProcessSettings,
    loop: ConsumerLoop,
    jobs: Sequence[Job] = (),
) -> None:
    """Consumes, publishes, sweeps, runs the jobs and serves /healthz, /readyz and /metrics, until `stopping` is set.

    The service's jobs do not run while this process's clock differs from the database's clock.
    """
    runtime.readiness.checks["consumer"] = loop.problem
    app = create_http_app(f"{runtime.service} worker", description="Health and metrics.", readiness=runtime.readiness)
    common_jobs = (
        Job("sweep_outbox", runtime.publisher.sweep, every_s=SWEEP_EVERY_S),
        Job("measure_outbox", runtime.publisher.measure, every_s=OBSERVE_EVERY_S),
        _clock_job(runtime),
        Job("observe_consumer", loop.observe, every_s=OBSERVE_EVERY_S),
    )
    async with asyncio.TaskGroup() as tasks:
        background = [
            tasks.create_task(runtime.publisher.run()),
            *(tasks.create_task(run_job(job)) for job in common_jobs),
            *(tasks.create_task(run_job(replace(job, run=runtime.clock.guard(job.run)))) for job in jobs),
        ]
        serving = tasks.create_task(serve(app, process, stopping))
        tune_garbage_collector()
        await loop.run(stopping)
        for job in background[1:]:
            job.cancel()
        await runtime.publisher.drain(DRAIN_TIMEOUT_S)
        background[0].cancel()
        await serving


async def _wait_for_clock(clock: DatabaseClock, timeout_s: float) -> None:
    """Measures the clock once. Retries retryable errors; raises the last one after `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            return await clock.measure()
        except Exception as error:
            if not is_transient(error) or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(CLOCK_RETRY_DELAY_S)


def _clock_job(runtime: Runtime) -> Job:
    return Job("measure_clock", runtime.clock.measure, every_s=OBSERVE_EVERY_S)


async def _database_answers(engine: AsyncEngine) -> str | None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    return None
