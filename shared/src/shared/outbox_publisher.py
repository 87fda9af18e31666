"""Publishes the transactional outbox to Kafka: each event at least once, and the newest version of each state last.

State topics are compacted, and compaction keeps the record with the last offset of a key, not the highest version. So a
publisher announces the version that it has read, sends it, and then checks the announcements. If another publisher has
announced a higher version in the meantime, its own record may have been written after that one, and it sends the state
again. It deletes the marks only once its version is the newest. Because publishers announce *before* they send, the
later of two senders always sees the announcement of the other.

A publisher may crash between sending and checking, so no other publisher may delete the mark of a state that is being
sent. With its announcement a publisher claims that mark for 30 s, unless another one has claimed it. It deletes the
marks that it has claimed itself and those without a claim. The claim of a crashed publisher expires; then a sweep sends
the state again.

A record that is not acknowledged in time is not withdrawn: aiokafka goes on sending it, and Kafka may write it after
newer ones. So the keys of a round that failed, or that another publisher has overtaken, are republished: the publisher
renews their claims while Kafka may still write one of their records, and then publishes them again, until a round
succeeds.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared import outbox_sql
from shared.clock import utc_now
from shared.events import DomainEvent, encode
from shared.faults import fault_point
from shared.ids import new_id
from shared.kafka import kafka_headers
from shared.logs import get_logger
from shared.outbox import OutboxEvent, StateMark
from shared.producer import Sender
from shared.retries import is_retryable
from shared.topics import TopicName

log = get_logger()

PENDING_MAX = 10_000
PENDING_KEYS_MAX = 50_000
#: The coalescing interval after a round, in which several changes of a key become one record. It grows with the number
#: of keys in the round.
COALESCING_PER_KEY_S = 0.002
COALESCING_MAX_S = 1.0
SEND_TIMEOUT_S = 15.0
SWEEP_ROWS_MAX = 500
#: A larger backlog is reported as this number: counting further would be slow and tell an operator nothing more.
COUNTED_ROWS_MAX = 100_000
#: How long a claim is valid: longer than it takes from an announcement to its check (`SEND_TIMEOUT_S` and two
#: statements), and longer than a process takes to shut down.
CLAIM = timedelta(seconds=30)
CLAIM_RENEWED_EVERY_S = 5.0
#: How long the republishing of a key waits for the acknowledgements of its earlier records.
WAIT_FOR_RECORDS_S = 60.0
REPUBLISH_AFTER_S = 5.0

_published = Counter("outbox_published_total", "Records published from the outbox.", ["topic"])
_swept = Counter("outbox_swept_total", "Rows that their own process had not published and a sweep took.")
_waiting = Gauge("outbox_waiting_rows", "Rows that are committed and not published yet, 100,000 at most.")

#: Topic and key of a state, and the tenant that it belongs to.
StateKey = tuple[str, str, str]
_States = dict[StateKey, tuple[int, DomainEvent]]
_Acknowledgement = asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class StateSource:
    """The source of a state topic. `load` returns the current version and event of each given key that exists."""

    topic: TopicName
    load: Callable[[AsyncConnection, Sequence[str]], Awaitable[Mapping[str, tuple[int, DomainEvent]]]]


class OutboxPublisher:
    """Publishes what this process has committed (`submit`), and what other processes have left unpublished (`sweep`).

    Its memory is bounded: rows that do not fit, or whose publishing fails, are left to the sweep of any worker.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        producer: Sender,
        *,
        service: str,
        topic_prefix: str,
        states: Iterable[StateSource] = (),
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        self._engine = engine
        self._each_statement_commits = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._producer = producer
        self._service = service
        self._prefix = topic_prefix
        self._sources = {source.topic.value: source for source in states}
        self._send_timeout_s = send_timeout_s
        self._republishing: set[asyncio.Task[None]] = set()
        self._events: list[OutboxEvent] = []
        self._keys: set[StateKey] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        """Queues rows that have just been committed."""
        if len(self._events) < PENDING_MAX:
            self._events.extend(events)
        if len(self._keys) < PENDING_KEYS_MAX:
            self._keys.update((mark.topic, mark.key, mark.tenant) for mark in marks)
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Publishes until cancelled."""
        try:
            await self._run()
        finally:
            for task in self._republishing:
                task.cancel()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            events, self._events = self._events, []
            keys, self._keys = self._keys, set()
            try:
                await self._publish(events, keys)
            except Exception as error:
                if not is_retryable(error):
                    raise
                log.warning("publishing_left_to_the_sweep", error=type(error).__name__, rows=len(events) + len(keys))
            self._idle_if_done()
            await asyncio.sleep(min(COALESCING_MAX_S, COALESCING_PER_KEY_S * len(keys)))

    def _idle_if_done(self) -> None:
        if not self._events and not self._keys and not self._republishing:
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Returns once nothing is pending in memory, or after `timeout_s`. Unpublished rows stay in the tables."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("outbox_not_drained", timeout_s=timeout_s)

    async def sweep(self) -> None:
        """Publishes the rows that are due, from all processes. Any number of workers may run it at the same time."""
        while True:
            async with self._engine.begin() as connection:
                claim = (await connection.execute(outbox_sql.NEW_CLAIM, {"lasting": _claim_duration()})).scalar_one()
                rows = (
                    await connection.execute(outbox_sql.CLAIM_EVENTS, {"claim": claim, "limit": SWEEP_ROWS_MAX})
                ).all()
                marks = (
                    await connection.execute(outbox_sql.CLAIM_MARKS, {"claim": claim, "limit": SWEEP_ROWS_MAX})
                ).all()
            events = [
                OutboxEvent(row.id, row.tenant_id, row.topic, row.key, row.value, row.headers)
                for row in sorted(rows, key=lambda row: row.id)
            ]
            if events or marks:
                _swept.inc(len(events) + len(marks))
                await self._publish(events, {(mark.topic, mark.key, mark.tenant_id) for mark in marks}, claim)
            if len(rows) < SWEEP_ROWS_MAX and len(marks) < SWEEP_ROWS_MAX:
                return

    async def measure(self) -> None:
        """Counts the rows of this service that wait to be published, from all processes."""
        async with self._engine.connect() as connection:
            _waiting.set((await connection.execute(outbox_sql.COUNT_WAITING, {"limit": COUNTED_ROWS_MAX})).scalar_one())

    async def _publish(self, events: Sequence[OutboxEvent], keys: set[StateKey], claim: datetime | None = None) -> None:
        states, claim = await self._read_and_announce(keys, claim) if keys else ({}, claim)
        await self._send_and_check(events, states, claim)

    async def _send_and_check(
        self,
        events: Sequence[OutboxEvent],
        states: _States,
        claim: datetime | None,
        earlier: Iterable[_Acknowledgement] = (),
    ) -> None:
        """Sends events and states, and checks whether the states are still the newest, after their announcement.

        `claim` is None if there are no states. `earlier` are the acknowledgements of earlier records of these keys.
        """
        unacknowledged = list(earlier)
        try:
            await self._send(
                [
                    *((event.topic, event.key, event.value, event.headers) for event in events),
                    *(
                        (topic, key, encode(event, event_id=new_id("evt"), now=utc_now()), dict[str, str]())
                        for (topic, key, _tenant), (_version, event) in states.items()
                    ),
                ],
                unacknowledged,
            )
            await fault_point(f"{self._service}.published")
            overtaken = states
            async with self._each_statement_commits.connect() as connection:
                if events:
                    await connection.execute(
                        outbox_sql.DELETE_EVENTS,
                        {"tenants": [event.tenant for event in events], "ids": [event.id for event in events]},
                    )
                if states and all(one.done() for one in unacknowledged):
                    overtaken = await self._delete_marks(connection, states, claim)
        except Exception:
            self._republish_soon(states, claim, unacknowledged, after_s=REPUBLISH_AFTER_S)
            raise
        self._republish_soon(overtaken, claim, unacknowledged, after_s=0)

    async def _read_and_announce(self, keys: set[StateKey], claim: datetime | None) -> tuple[_States, datetime | None]:
        """Reads the keys' states, announces their versions and claims their marks, with `claim` if the caller has
        claimed them already. Returns the states, and the claim if there are any."""
        states: _States = {}
        async with self._each_statement_commits.connect() as connection:
            for topic, source in self._sources.items():
                wanted = {key: (topic, key, tenant) for of, key, tenant in keys if of == topic}
                if wanted:
                    loaded = await source.load(connection, sorted(wanted))
                    states |= {wanted[key]: state for key, state in loaded.items()}
            if states:
                values = _columns(states) | {"claim": claim, "lasting": _claim_duration()}
                claim = (await connection.execute(outbox_sql.ANNOUNCE_AND_CLAIM, values)).scalar_one()
        return states, claim

    async def _delete_marks(self, connection: AsyncConnection, states: _States, claim: datetime | None) -> _States:
        """Deletes the marks of the states that are the newest. Returns the other states, whose claims stay."""
        clean = await connection.execute(outbox_sql.DELETE_MARKS_OF_NEWEST, _columns(states) | {"claim": claim})
        newest = {(row.topic, row.key, row.tenant_id) for row in clean}
        return {key: state for key, state in states.items() if key not in newest}

    def _republish_soon(
        self, states: _States, claim: datetime | None, unacknowledged: Iterable[_Acknowledgement], *, after_s: float
    ) -> None:
        if not states:
            return
        self._idle.clear()
        pending = [one for one in unacknowledged if not one.done()]
        task = asyncio.create_task(self._republish(states, claim, pending, 0 if pending else after_s))
        self._republishing.add(task)
        task.add_done_callback(self._on_republished)

    def _on_republished(self, task: asyncio.Task[None]) -> None:
        self._republishing.discard(task)
        self._idle_if_done()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("settling_failed", exc_info=error)

    async def _republish(
        self, states: _States, claim: datetime | None, unacknowledged: Sequence[_Acknowledgement], after_s: float
    ) -> None:
        """Publishes keys again, once no earlier record of theirs is pending or `WAIT_FOR_RECORDS_S` is over."""
        await asyncio.sleep(after_s)
        waits_until = asyncio.get_running_loop().time() + WAIT_FOR_RECORDS_S
        while True:
            try:
                claim = await self._renew_claims(states, claim)
                pending = [one for one in unacknowledged if not one.done()]
                if pending and asyncio.get_running_loop().time() < waits_until:
                    await asyncio.wait(pending, timeout=CLAIM_RENEWED_EVERY_S)
                    continue
                newest, claim = await self._read_and_announce(set(states), claim)
                break
            except Exception as error:
                if not is_retryable(error):
                    raise
                await asyncio.sleep(REPUBLISH_AFTER_S)
        try:
            await self._send_and_check([], newest, claim, pending)
        except Exception as error:  # the keys are republished once more
            if not is_retryable(error):
                raise
            log.warning("publishing_is_repeated", error=type(error).__name__, rows=len(states))

    async def _renew_claims(self, states: _States, claim: datetime | None) -> datetime:
        async with self._each_statement_commits.connect() as connection:
            values = _columns(states) | {"claim": claim, "lasting": _claim_duration()}
            return (await connection.execute(outbox_sql.RENEW_CLAIMS, values)).scalar_one()

    async def _send(
        self, records: Sequence[tuple[str, str, bytes, dict[str, str]]], unacknowledged: list[_Acknowledgement]
    ) -> None:
        """Sends records and waits for their acknowledgements.

        Appends each acknowledgement to `unacknowledged`. If this raises, Kafka may still write those that are not done.
        """
        acknowledgements: list[_Acknowledgement] = []
        async with asyncio.timeout(self._send_timeout_s):
            for topic, key, value, headers in records:
                acknowledgement = await self._producer.send(
                    self._prefix + topic, value, key=key.encode(), headers=kafka_headers(headers)
                )
                acknowledgements.append(acknowledgement)
                unacknowledged.append(acknowledgement)
                _published.labels(topic).inc()
            if acknowledgements:
                await asyncio.wait(acknowledgements)  # `gather` would cancel them, and hide when they are written
        for acknowledgement in acknowledgements:
            acknowledgement.result()


def _claim_duration() -> timedelta:
    """How long a new claim lasts. The random part makes its end unique, because the end identifies the claim."""
    return CLAIM + timedelta(microseconds=random.randrange(1_000_000))  # noqa: S311  # not a secret


def _columns(states: Mapping[StateKey, tuple[int, DomainEvent]]) -> dict[str, Any]:
    ordered = sorted(states.items())
    return {
        "topics": [topic for (topic, _key, _tenant), _state in ordered],
        "keys": [key for (_topic, key, _tenant), _state in ordered],
        "tenants": [tenant for (_topic, _key, tenant), _state in ordered],
        "versions": [version for _key, (version, _event) in ordered],
    }
