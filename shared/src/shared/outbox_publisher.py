"""Transactional outbox, the sending side: to Kafka at least once, and the newest state last.

State topics are compacted, and compaction keeps the last offset of a key, not its highest version. So a publisher
announces the version it read, sends, and looks again: if anybody has announced a higher one meanwhile, its own record
may have landed behind that one, so it sends again. Only then are the marks deleted. (Announcing *before* sending is
what makes it safe: whoever sent the higher version had announced it before, so the later of two senders sees it.)

A publisher may die between sending and looking again, so nobody else may delete the mark of what it is sending: with
the announcement it claims the mark of the version it read, for 30 s, unless another has. Deleted are one's own claims
and marks that nobody has claimed; the claim of a dead publisher runs out and a sweep sends the key's state once more.

A record that is not acknowledged in time is not withdrawn: aiokafka sends it until Kafka takes it, be that after others
have published more. So a round that does not end well, or was overtaken, is settled: its claims are renewed while any
of its records is on its way, and then its keys are published once more, until a round of theirs ends well.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.clock import utc_now
from shared.database import is_transient
from shared.events import DomainEvent, encode
from shared.faults import fault_point
from shared.ids import new_id
from shared.kafka import kafka_headers
from shared.logs import get_logger
from shared.outbox import OutboxEvent, StateMark
from shared.producer import Sender
from shared.topics import TopicName

log = get_logger()

PENDING_MAX = 10_000
PENDING_KEYS_MAX = 50_000
#: After a round comes a rest, so that what changes again meanwhile is sent once: few keys go at once, many take turns.
REST_PER_KEY_S = 0.002
REST_MAX_S = 1.0
SEND_TIMEOUT_S = 15.0
SWEEP_ROWS_MAX = 500
#: Counting further tells an operator nothing new.
WAITING_ROWS_MAX = 100_000
#: Longer than a publisher needs from its announcement to its look back (`SEND_TIMEOUT_S` and two statements), and than
#: a process that was told to end lives on.
CLAIM = timedelta(seconds=30)
CLAIM_RENEWED_EVERY_S = 5.0
#: How long a record that is on its way keeps its key from being published anew.
WAITED_FOR_RECORDS_S = 60.0
SETTLED_AGAIN_AFTER_S = 5.0

_published = Counter("outbox_published_total", "Records published from the outbox.", ["topic"])
_swept = Counter("outbox_swept_total", "Rows that their own process had not published and a sweep took.")
_waiting = Gauge("outbox_waiting_rows", "Rows that are committed and not published yet, 100,000 at most.")

#: (topic, key) of a state, and the tenant it belongs to.
StateKey = tuple[str, str, str]
_States = dict[StateKey, tuple[int, DomainEvent]]
_Acknowledgement = asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class StateSource:
    """Where a state topic's records come from: `load` reads the current (version, event) of each key it finds."""

    topic: TopicName
    load: Callable[[AsyncConnection, Sequence[str]], Awaitable[Mapping[str, tuple[int, DomainEvent]]]]


class OutboxPublisher:
    """Publishes what this process committed at once (`submit`), and what others left behind (`sweep`).

    Memory is bounded: what does not fit, or fails, is left to the sweep of any worker.
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
        self._settling: set[asyncio.Task[None]] = set()
        self._events: list[OutboxEvent] = []
        self._keys: set[StateKey] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        """Takes rows that have just been committed."""
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
            for settling in self._settling:
                settling.cancel()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            events, self._events = self._events, []
            keys, self._keys = self._keys, set()
            try:
                await self._publish(events, keys)
            except Exception as error:
                if not _is_passing(error):
                    raise
                log.warning("publishing_left_to_the_sweep", error=type(error).__name__, rows=len(events) + len(keys))
            self._rest_if_done()
            await asyncio.sleep(min(REST_MAX_S, REST_PER_KEY_S * len(keys)))

    def _rest_if_done(self) -> None:
        if not self._events and not self._keys and not self._settling:
            self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Returns once nothing is pending in memory, or after `timeout_s`; the rest is in the tables."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("outbox_not_drained", timeout_s=timeout_s)

    async def sweep(self) -> None:
        """Publishes rows older than their grace, whoever wrote them. Runs in every worker, as often as wanted."""
        while True:
            async with self._engine.begin() as connection:
                claim = (await connection.execute(_NEW_CLAIM, {"lasting": _lasting()})).scalar_one()
                rows = (await connection.execute(_CLAIM_EVENTS, {"claim": claim, "limit": SWEEP_ROWS_MAX})).all()
                marks = (await connection.execute(_CLAIM_MARKS, {"claim": claim, "limit": SWEEP_ROWS_MAX})).all()
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
        """Counts what waits to be published, by any process of this service."""
        async with self._engine.connect() as connection:
            _waiting.set((await connection.execute(_COUNT_WAITING, {"limit": WAITING_ROWS_MAX})).scalar_one())

    async def _publish(self, events: Sequence[OutboxEvent], keys: set[StateKey], claim: datetime | None = None) -> None:
        states, claim = await self._read_and_announce(keys, claim) if keys else ({}, claim)
        await self._send_and_look_again(events, states, claim)

    async def _send_and_look_again(
        self,
        events: Sequence[OutboxEvent],
        states: _States,
        claim: datetime | None,
        earlier: Iterable[_Acknowledgement] = (),
    ) -> None:
        """What follows an announcement. `claim` is None where no state was read. `earlier`: of records of these keys
        that were sent before and given up."""
        on_their_way = list(earlier)
        try:
            await self._send(
                [
                    *((event.topic, event.key, event.value, event.headers) for event in events),
                    *(
                        (topic, key, encode(event, event_id=new_id("evt"), now=utc_now()), dict[str, str]())
                        for (topic, key, _tenant), (_version, event) in states.items()
                    ),
                ],
                on_their_way,
            )
            await fault_point(f"{self._service}.published")
            unsettled = states
            async with self._each_statement_commits.connect() as connection:
                if events:
                    await connection.execute(
                        _DELETE_EVENTS,
                        {"tenants": [event.tenant for event in events], "ids": [event.id for event in events]},
                    )
                if states and all(one.done() for one in on_their_way):
                    unsettled = await self._look_again(connection, states, claim)
        except Exception:
            self._settle_soon(states, claim, on_their_way, after_s=SETTLED_AGAIN_AFTER_S)
            raise
        self._settle_soon(unsettled, claim, on_their_way, after_s=0)

    async def _read_and_announce(self, keys: set[StateKey], claim: datetime | None) -> tuple[_States, datetime | None]:
        """Reads the keys' states, notes that they are about to be sent, and claims their marks: as `claim` where the
        caller has claimed them already. Returns the states, and the claim if any state was read."""
        states: _States = {}
        async with self._each_statement_commits.connect() as connection:
            for topic, source in self._sources.items():
                wanted = {key: (topic, key, tenant) for of, key, tenant in keys if of == topic}
                if wanted:
                    loaded = await source.load(connection, sorted(wanted))
                    states |= {wanted[key]: state for key, state in loaded.items()}
            if states:
                values = _columns(states) | {"claim": claim, "lasting": _lasting()}
                claim = (await connection.execute(_ANNOUNCE_AND_CLAIM, values)).scalar_one()
        return states, claim

    async def _look_again(self, connection: AsyncConnection, states: _States, claim: datetime | None) -> _States:
        """Deletes the marks of what was sent as the newest; returns what was overtaken, whose claims stay."""
        clean = await connection.execute(_DELETE_MARKS_OF_NEWEST, _columns(states) | {"claim": claim})
        newest = {(row.topic, row.key, row.tenant_id) for row in clean}
        return {key: state for key, state in states.items() if key not in newest}

    def _settle_soon(
        self, states: _States, claim: datetime | None, on_their_way: Iterable[_Acknowledgement], *, after_s: float
    ) -> None:
        if not states:
            return
        self._idle.clear()
        pending = [one for one in on_their_way if not one.done()]
        settling = asyncio.create_task(self._settle(states, claim, pending, 0 if pending else after_s))
        self._settling.add(settling)
        settling.add_done_callback(self._settled)

    def _settled(self, settling: asyncio.Task[None]) -> None:
        self._settling.discard(settling)
        self._rest_if_done()
        if not settling.cancelled() and (error := settling.exception()) is not None:
            log.error("settling_failed", exc_info=error)

    async def _settle(
        self, states: _States, claim: datetime | None, on_their_way: Sequence[_Acknowledgement], after_s: float
    ) -> None:
        """Publishes keys once more, after the records of theirs that are on their way."""
        await asyncio.sleep(after_s)
        waits_until = asyncio.get_running_loop().time() + WAITED_FOR_RECORDS_S
        while True:
            try:
                claim = await self._renew(states, claim)
                pending = [one for one in on_their_way if not one.done()]
                if pending and asyncio.get_running_loop().time() < waits_until:
                    await asyncio.wait(pending, timeout=CLAIM_RENEWED_EVERY_S)
                    continue
                newest, claim = await self._read_and_announce(set(states), claim)
                break
            except Exception as error:
                if not _is_passing(error):
                    raise
                await asyncio.sleep(SETTLED_AGAIN_AFTER_S)
        try:
            await self._send_and_look_again([], newest, claim, pending)
        except Exception as error:  # another settling has been begun
            if not _is_passing(error):
                raise
            log.warning("publishing_is_repeated", error=type(error).__name__, rows=len(states))

    async def _renew(self, states: _States, claim: datetime | None) -> datetime:
        async with self._each_statement_commits.connect() as connection:
            values = _columns(states) | {"claim": claim, "lasting": _lasting()}
            return (await connection.execute(_RENEW, values)).scalar_one()

    async def _send(
        self, records: Sequence[tuple[str, str, bytes, dict[str, str]]], on_their_way: list[_Acknowledgement]
    ) -> None:
        """Sends and waits for Kafka; whatever is raised, `on_their_way` then holds every record that may yet land."""
        acknowledgements: list[_Acknowledgement] = []
        async with asyncio.timeout(self._send_timeout_s):
            for topic, key, value, headers in records:
                acknowledgement = await self._producer.send(
                    self._prefix + topic, value, key=key.encode(), headers=kafka_headers(headers)
                )
                acknowledgements.append(acknowledgement)
                on_their_way.append(acknowledgement)
                _published.labels(topic).inc()
            if acknowledgements:
                await asyncio.wait(acknowledgements)  # `gather` would cancel them, and nobody knew when they land
        for acknowledgement in acknowledgements:
            acknowledgement.result()


def _is_passing(error: Exception) -> bool:
    return is_transient(error) or isinstance(error, KafkaError)


def _lasting() -> timedelta:
    """How long a publisher claims rows. The random part makes the moment at which the claim ends its own."""
    return CLAIM + timedelta(microseconds=random.randrange(1_000_000))  # noqa: S311  # not a secret


def _columns(states: Mapping[StateKey, tuple[int, DomainEvent]]) -> dict[str, Any]:
    ordered = sorted(states.items())
    return {
        "topics": [topic for (topic, _key, _tenant), _state in ordered],
        "keys": [key for (_topic, key, _tenant), _state in ordered],
        "tenants": [tenant for (_topic, _key, tenant), _state in ordered],
        "versions": [version for _key, (version, _event) in ordered],
    }


_NEW_CLAIM = text("SELECT now() + CAST(:lasting AS interval)")

_CLAIM_EVENTS = text("""
    UPDATE outbox SET due_at = :claim
    WHERE (tenant_id, id) IN (
        SELECT tenant_id, id FROM outbox WHERE due_at <= now() ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING tenant_id, id, topic, key, value, headers
""")

_CLAIM_MARKS = text("""
    UPDATE outbox_mark SET due_at = :claim
    WHERE (tenant_id, topic, key, version) IN (
        SELECT tenant_id, topic, key, version FROM outbox_mark WHERE due_at <= now() ORDER BY due_at LIMIT :limit
        FOR UPDATE SKIP LOCKED)
    RETURNING tenant_id, topic, key
""")

_COUNT_WAITING = text("""
    SELECT count(*) FROM (SELECT FROM outbox UNION ALL SELECT FROM outbox_mark LIMIT :limit) AS waiting
""")

_DELETE_EVENTS = text("""
    DELETE FROM outbox USING unnest(CAST(:tenants AS text[]), CAST(:ids AS bigint[])) AS sent (tenant, id)
    WHERE outbox.tenant_id = sent.tenant AND outbox.id = sent.id
""")

# A mark that is due later than the grace that every new one has (5 s) has been claimed.
_ANNOUNCE_AND_CLAIM = text("""
    WITH claim AS (
        SELECT COALESCE(CAST(:claim AS timestamptz), now() + CAST(:lasting AS interval)) AS until
    ), sent AS (
        SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
                             CAST(:versions AS bigint[])) AS sent (tenant_id, topic, key, version)
    ), announced AS (
        INSERT INTO published_state AS published (tenant_id, topic, key, version)
        SELECT * FROM sent
        ON CONFLICT (tenant_id, topic, key)
        DO UPDATE SET version = GREATEST(published.version, excluded.version)
    ), claimed AS (
        INSERT INTO outbox_mark AS mark (tenant_id, topic, key, version, due_at)
        SELECT sent.*, claim.until FROM sent CROSS JOIN claim
        ON CONFLICT (tenant_id, topic, key, version)
        DO UPDATE SET due_at = excluded.due_at WHERE mark.due_at <= now() + interval '6 seconds'
    )
    SELECT until FROM claim
""")

_RENEW = text("""
    WITH renewed AS (
        SELECT now() + CAST(:lasting AS interval) AS until
    ), marks AS (
        UPDATE outbox_mark AS mark SET due_at = renewed.until
        FROM renewed, unnest(CAST(:tenants AS text[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
                             CAST(:versions AS bigint[])) AS sent (tenant_id, topic, key, version)
        WHERE mark.tenant_id = sent.tenant_id AND mark.topic = sent.topic AND mark.key = sent.key
          AND mark.due_at = :claim
    )
    SELECT until FROM renewed
""")

# A key is clean when nobody has announced more than what was sent; only a clean key loses marks, and only those that no
# other publisher has claimed.
_DELETE_MARKS_OF_NEWEST = text("""
    WITH sent AS (
        SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:topics AS text[]), CAST(:keys AS text[]),
                             CAST(:versions AS bigint[])) AS sent (tenant_id, topic, key, version)
    ), newest AS (
        SELECT sent.* FROM sent JOIN published_state USING (tenant_id, topic, key)
        WHERE published_state.version <= sent.version
    ), deleted AS (
        DELETE FROM outbox_mark AS mark USING newest
        WHERE mark.tenant_id = newest.tenant_id AND mark.topic = newest.topic AND mark.key = newest.key
          AND mark.version <= newest.version
          AND (mark.due_at = :claim OR mark.due_at <= now() + interval '6 seconds')
    )
    SELECT tenant_id, topic, key FROM newest
""")
