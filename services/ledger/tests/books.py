"""A ledger's database, as tests use it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from embedded.testing import ServiceDatabase
from ledger.commands.check import check
from ledger.core.commands import Command, Outcome
from ledger.repository.tables import metadata
from ledger.workflows.apply_commands import apply_commands
from shared.database import make_engine
from shared.events import EntryPosted, decode
from shared.outbox import Outbox, OutboxEvent, StateMark

from .builders import NOW
from .tenant_view import TenantView

Batch = Sequence[Command]

_BALANCES = text("SELECT tenant_id, balance, held, owed FROM balance")
_GRANTS = text("SELECT tenant_id, grant_number, remaining, held FROM credit_grant")
_HOLDS = text("SELECT tenant_id, reference, status, captured FROM hold")
_EMPTY = text(f"TRUNCATE {', '.join(metadata.tables)}")


@dataclass(slots=True)
class Published:
    """Collects what has been committed, in place of the publisher."""

    events: list[OutboxEvent] = field(default_factory=list[OutboxEvent])
    marks: list[StateMark] = field(default_factory=list[StateMark])

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        self.events += events
        self.marks += marks

    @property
    def entries(self) -> list[EntryPosted]:
        return [entry for event in self.events if (entry := decode(event.value, EntryPosted)) is not None]


@dataclass(slots=True)
class Books:
    """Applies commands, each call in a transaction of its own, and reads the result."""

    database: ServiceDatabase
    engine: AsyncEngine
    published: Published = field(default_factory=Published)

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.published)

    def outbox_at(self, now: datetime) -> Outbox:
        """An outbox whose transactions begin at `now`."""

        async def clock(_connection: AsyncConnection) -> datetime:
            return now

        return Outbox(self.published, clock)

    async def post(self, *commands: Command, now: datetime = NOW) -> Sequence[Outcome]:
        async with self.outbox.transaction(self.engine) as transaction:
            return await apply_commands(transaction, commands, now)

    async def post_concurrently(self, *writers: Sequence[Batch], now: datetime = NOW) -> Sequence[Batch]:
        """Applies the batches of each writer in order, all writers concurrently, and returns all batches in the order
        in which they took effect.

        A batch is noted while its transaction holds its locks. So batches of the same tenants are in the order of
        locks.
        """
        in_order: list[Batch] = []

        async def write(batches: Sequence[Batch]) -> None:
            for batch in batches:
                async with self.outbox.transaction(self.engine) as transaction:
                    await apply_commands(transaction, batch, now)
                    in_order.append(batch)

        await asyncio.gather(*(write(batches) for batches in writers))
        return in_order

    async def views(self) -> dict[str, TenantView]:
        """Every tenant as the tables have it."""
        grants: dict[str, dict[int, tuple[int, int]]] = {}
        holds: dict[str, dict[str, tuple[str, int]]] = {}
        async with self.engine.begin() as connection:
            for tenant, number, *rest in await connection.execute(_GRANTS):
                grants.setdefault(tenant, {})[number] = rest[0], rest[1]
            for tenant, name, *rest in await connection.execute(_HOLDS):
                holds.setdefault(tenant, {})[name] = rest[0], rest[1]
            return {
                tenant: TenantView(balance, held, owed, grants.get(tenant, {}), holds.get(tenant, {}))
                for tenant, balance, held, owed in await connection.execute(_BALANCES)
            }

    async def empty(self) -> None:
        """Deletes all rows."""
        owner = make_engine(self.database.superuser_url, application_name="ledger-test-emptying", pool_size=1)
        async with owner.begin() as connection:
            await connection.execute(_EMPTY)
        await owner.dispose()

    async def rows(self, query: str, **values: Any) -> list[Any]:
        async with self.engine.begin() as connection:
            return list((await connection.execute(text(query), values)).all())

    async def balance(self, tenant: str = "acme") -> tuple[int, int, int]:
        """Balance, owed, receivable."""
        row = (await self.rows("SELECT balance, owed, receivable FROM balance WHERE tenant_id = :t", t=tenant))[0]
        return row.balance, row.owed, row.receivable

    async def someone_waits_for_a_lock(self) -> bool:
        """Whether a transaction waits for what another one has locked."""
        return bool(
            await self.rows(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )

    async def assert_right(self) -> None:
        """`ledger check` finds nothing wrong."""
        findings = await check(self.engine)
        assert findings.exit_code == 0, findings.wrong
