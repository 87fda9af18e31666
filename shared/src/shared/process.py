"""The life cycle of a process: it starts or reports why it cannot, runs its jobs, and stops within 10 s of SIGTERM."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

import uvloop
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from shared import faults
from shared.clock import ClockDiffers
from shared.database import DatabaseUnavailable, is_transient
from shared.logs import configure_logging, get_logger
from shared.settings import InvalidSettings, ProcessSettings
from shared.topic_admin import TopicsWrong, check_topics

log = get_logger()

SHUTDOWN_TIMEOUT_S = 10.0

_job_runs = Counter("job_runs_total", "Runs of periodic jobs.", ["job", "outcome"])
_job_last_success = Gauge(
    "job_last_success_timestamp_seconds", "When a periodic job last succeeded; 0 if it has not yet.", ["job"]
)


SettingsT = TypeVar("SettingsT", bound=ProcessSettings)


class Startable(Protocol):
    """A producer that may not be connected yet."""

    async def start(self) -> None: ...


class KafkaUnavailable(Exception):
    """Kafka did not answer in time. The message says what to check."""


@dataclass(frozen=True, slots=True)
class Job:
    """Periodic work: `run` is called every `every_s`, and is cancelled after `timeout_s`. It must be safe to run in any
    number of replicas.

    If a run raises one of `expected_errors`, it is logged as failed and the next run follows as usual.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    every_s: float
    timeout_s: float = 60.0
    expected_errors: tuple[type[Exception], ...] = ()


async def run_job(job: Job) -> None:
    """Runs the job until cancelled. If a run fails with a retryable error, it is logged and the next run follows."""
    for outcome in ("done", "failed"):  # exported from the start, so that the first failure is an increase
        _job_runs.labels(job.name, outcome)
    _job_last_success.labels(job.name)
    while True:
        try:
            async with asyncio.timeout(job.timeout_s):
                await job.run()
            _job_runs.labels(job.name, "done").inc()
            _job_last_success.labels(job.name).set_to_current_time()
        except Exception as error:
            if not (is_transient(error) or isinstance(error, (KafkaError, ClockDiffers, *job.expected_errors))):
                raise
            _job_runs.labels(job.name, "failed").inc()
            log.warning("job_failed_for_now", job=job.name, error=f"{type(error).__name__}: {error}"[:300])
        await asyncio.sleep(job.every_s)


async def wait_for_kafka(producer: Startable, bootstrap_servers: str, topic_prefix: str, timeout_s: float) -> None:
    """Starts the producer and checks the topics. Waits at most `timeout_s` for Kafka and for the topics to be created,
    then raises `KafkaUnavailable` or `TopicsWrong`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    started = False
    while True:
        try:
            if not started:
                await producer.start()
                started = True
            await check_topics(bootstrap_servers, topic_prefix)
            return
        except (KafkaError, OSError, TopicsWrong) as error:
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                if isinstance(error, TopicsWrong):
                    raise
                raise KafkaUnavailable(
                    f"Kafka at {bootstrap_servers} did not answer within {timeout_s:.0f} s ({type(error).__name__}). "
                    "Check KAFKA_BOOTSTRAP_SERVERS and that the brokers run."
                ) from error
            log.warning("waiting_for_kafka", remaining_s=round(remaining_s), error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(1.0)


def run_service(
    service: str,
    settings: SettingsT,
    run: Callable[[SettingsT, asyncio.Event], Awaitable[None]],
    expected_errors: tuple[type[Exception], ...] = (),
) -> int:
    """Runs `run(settings, stopping)` with `run_process`."""
    return run_process(service, settings.log_level, partial(run, settings), expected_errors)


def run_process(
    service: str,
    log_level: str,
    main: Callable[[asyncio.Event], Awaitable[None]],
    expected_errors: tuple[type[Exception], ...] = (),
) -> int:
    """Runs `main(stopping)` and returns the exit code: 0 if it returns, 1 if it raises.

    `stopping` is set on SIGTERM and SIGINT. If the process has not stopped `SHUTDOWN_TIMEOUT_S` later, it exits with 1.

    Unavailable servers, wrong topics, invalid settings and `expected_errors` are logged with their message, which says
    what to do; other errors with their traceback.
    """
    configure_logging(service, log_level)
    faults.configure()

    async def supervised() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if not stopping.is_set():
                log.info("stopping")
                stopping.set()
                loop.call_later(SHUTDOWN_TIMEOUT_S, _exit_now)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await main(stopping)

    try:
        uvloop.run(supervised())
    except Exception as error:
        for leaf in _leaves(error):
            if isinstance(leaf, (DatabaseUnavailable, KafkaUnavailable, TopicsWrong, InvalidSettings)):
                log.critical("cannot_start", reason=str(leaf))
            elif isinstance(leaf, expected_errors):
                log.critical("not_done", reason=str(leaf))
            else:
                log.critical("crashed", exc_info=leaf)
        return 1
    log.info("stopped")
    return 0


def _leaves(error: Exception) -> list[Exception]:
    if isinstance(error, ExceptionGroup):
        group = cast(ExceptionGroup[Exception], error)
        return [leaf for part in group.exceptions for leaf in _leaves(part)]
    return [error]


def _exit_now() -> None:
    log.critical("shutdown_took_too_long", timeout_s=SHUTDOWN_TIMEOUT_S)
    sys.stdout.flush()
    os._exit(1)
