"""The writing side of the transactional outbox: a transaction writes the events that it publishes into the outbox.

An event is written to the table `outbox` as bytes. For a state topic only a mark (topic, key, version) is written; the
publisher reads the current state when it sends it, see `shared.outbox_publisher`.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.clock import TransactionClock, transaction_time, utc_now
from shared.database import confine_to_tenant
from shared.events import DomainEvent, TenantEvent, encode
from shared.ids import new_id
from shared.topics import TopicName
from shared.trace import current_traceparent


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """A row of the table `outbox`. `id` is 0 until the row is written."""

    id: int
    tenant: str
    topic: str
    key: str
    value: bytes
    headers: dict[str, str]


class StateMark(NamedTuple):
    """A key of a state topic whose state is to be published, at `version` or newer."""

    tenant: str
    topic: str
    key: str
    version: int


@dataclass(slots=True)
class Transaction:
    """An open transaction, and what is published once it commits. `now` is its start by the database's clock."""

    connection: AsyncConnection
    now: datetime
    events: list[OutboxEvent] = field(default_factory=list[OutboxEvent])
    marks: list[StateMark] = field(default_factory=list[StateMark])

    def publish(self, event: DomainEvent, traceparent: str | None = None) -> None:
        """Publishes an event at least once if this transaction commits. For state topics, use `mark`."""
        trace = traceparent or current_traceparent.get()
        tenant = event.tenant if isinstance(event, TenantEvent) else ""
        value = encode(event, event_id=new_id("evt"), now=utc_now(), traceparent=trace)
        headers = {"traceparent": trace} if trace else {}
        self.events.append(OutboxEvent(0, tenant, event.TOPIC, event.key, value, headers))

    def mark(self, topic: TopicName, key: str, version: int, *, tenant: str) -> None:
        """Publishes the state of `key` if this transaction, which changed it to `version`, commits."""
        self.marks.append(StateMark(tenant, topic, key, version))


class Publisher(Protocol):
    """Publishes what has just been committed."""

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None: ...


class Outbox:
    """Opens transactions whose events are written with them and sent right after the commit."""

    def __init__(self, publisher: Publisher, clock: TransactionClock = transaction_time) -> None:
        self._publisher = publisher
        self._clock = clock

    async def now(self, engine: AsyncEngine) -> datetime:
        """The time that a transaction would have if it began now."""
        async with engine.connect() as connection:
            return await self._clock(connection)

    @asynccontextmanager
    async def transaction(self, engine: AsyncEngine, tenant: str | None = None) -> AsyncGenerator[Transaction]:
        """Opens a transaction, confined to `tenant` if one is given. Publishing never delays the caller or fails it."""
        async with engine.begin() as connection:
            if tenant is not None:
                await confine_to_tenant(connection, tenant)
            transaction = Transaction(connection, await self._clock(connection))
            yield transaction
            events = await _write(transaction)
        if events or transaction.marks:
            self._publisher.submit(events, transaction.marks)


# One statement for events and marks saves a round trip in each transaction that publishes.
_INSERT = text("""
    WITH marks AS (
        INSERT INTO outbox_mark (tenant_id, topic, key, version)
        SELECT * FROM unnest(CAST(:mark_tenants AS text[]), CAST(:mark_topics AS text[]), CAST(:mark_keys AS text[]),
                             CAST(:mark_versions AS bigint[]))
        ON CONFLICT DO NOTHING
    )
    INSERT INTO outbox (tenant_id, topic, key, value, headers)
    SELECT tenant, topic, key, value, headers
    FROM unnest(CAST(:tenants AS text[]), CAST(:topics AS text[]), CAST(:keys AS text[]), CAST(:values AS bytea[]),
                CAST(:headers AS jsonb[])) WITH ORDINALITY AS new (tenant, topic, key, value, headers, n)
    ORDER BY n
    RETURNING id
""")


async def _write(transaction: Transaction) -> list[OutboxEvent]:
    """Writes the transaction's events and marks. Returns the events with their ids."""
    events = transaction.events
    marks = sorted(set(transaction.marks))
    if not events and not marks:
        return []
    rows = await transaction.connection.execute(
        _INSERT,
        {
            "tenants": [event.tenant for event in events],
            "topics": [event.topic for event in events],
            "keys": [event.key for event in events],
            "values": [event.value for event in events],
            "headers": [json.dumps(event.headers) for event in events],
            "mark_tenants": [mark.tenant for mark in marks],
            "mark_topics": [mark.topic for mark in marks],
            "mark_keys": [mark.key for mark in marks],
            "mark_versions": [mark.version for mark in marks],
        },
    )
    ids = sorted(row.id for row in rows)
    return [
        OutboxEvent(row_id, event.tenant, event.topic, event.key, event.value, event.headers)
        for row_id, event in zip(ids, events, strict=True)
    ]
