"""Finds attempts that are due and runs their next steps, a bounded number at a time, in any number of replicas."""

import asyncio
from contextlib import suppress

from sqlalchemy.ext.asyncio import AsyncEngine

from recharge.repository.attempts import due_attempts
from recharge.workflows.steps import StepRunner
from shared.clock import DatabaseClock, transaction_time
from shared.database import is_transient
from shared.logs import get_logger
from shared.outbox import OutboxEvent, Publisher, StateMark
from shared.topics import TopicName

log = get_logger()

POLL_EVERY_S = 0.5
DRAIN_TIMEOUT_S = 5.0


class WakingPublisher:
    """Wraps a publisher, and wakes the executor when an attempt has changed."""

    def __init__(self, publisher: Publisher, wake: asyncio.Event) -> None:
        self._publisher = publisher
        self._wake = wake

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        """Takes rows that have just been committed."""
        if any(event.topic == TopicName.ATTEMPT_CHANGED for event in events):
            self._wake.set()
        self._publisher.submit(events, marks)


class Executor:
    """Runs steps of due attempts until it is stopped. What it does not finish becomes due again for any executor.

    While this process's clock differs from the database's, it begins nothing.
    """

    def __init__(
        self, engine: AsyncEngine, steps: StepRunner, wake: asyncio.Event, clock: DatabaseClock, *, at_once: int
    ) -> None:
        self._engine = engine
        self._steps = steps
        self._wake = wake
        self._clock = clock
        self._at_once = at_once
        self._in_flight: dict[str, asyncio.Task[None]] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Works until `stopping`. Then it waits for calls under way, but not for long."""
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                self._wake.clear()
                await self._start_due()
                woken = asyncio.create_task(self._wake.wait())
                await asyncio.wait({stop, woken}, timeout=POLL_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        finally:
            stop.cancel()
            await self._drain()

    async def _start_due(self) -> None:
        free = self._at_once - len(self._in_flight)
        if free <= 0 or not self._clock.agrees:
            return
        try:
            async with self._engine.connect() as connection:
                now = await transaction_time(connection)
                due = await due_attempts(connection, now, self._in_flight, free)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("executor_waits_for_postgresql", error=type(error).__name__)
            return
        for row in due:
            task = asyncio.create_task(self._take(row.tenant_id, row.attempt))
            self._in_flight[row.attempt] = task

    async def _take(self, tenant: str, attempt: str) -> None:
        try:
            await self._steps.run(tenant, attempt)
        except Exception as error:
            # The attempt is unchanged and becomes due again. One that fails must not stop the others.
            if is_transient(error):
                log.warning("step_failed_for_now", tenant=tenant, attempt=attempt, error=type(error).__name__)
            else:
                log.error("step_failed", tenant=tenant, attempt=attempt, exc_info=error)
            await asyncio.sleep(POLL_EVERY_S)
        finally:
            self._in_flight.pop(attempt, None)
            self._wake.set()

    async def _drain(self) -> None:
        tasks = list(self._in_flight.values())
        if not tasks:
            return
        _done, unfinished = await asyncio.wait(tasks, timeout=DRAIN_TIMEOUT_S)
        for task in unfinished:
            task.cancel()
        for task in unfinished:
            with suppress(asyncio.CancelledError):
                await task
