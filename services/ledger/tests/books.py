"""A ledger's database in the hands of a test."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.testing import ServiceDatabase
from ledger.apply import apply
from ledger.check import check
from ledger.core.commands import Command, Outcome
from shared.events import EntryPosted, decode
from shared.outbox import Outbox, OutboxEvent, StateMark

from .builders import NOW


@dataclass(slots=True)
class Published:
    """Takes what has been committed, as the publisher would."""

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
    """Applies commands, each call in a transaction of its own, and reads what came of them."""

    database: ServiceDatabase
    engine: AsyncEngine
    published: Published = field(default_factory=Published)

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.published)

    async def apply(self, *commands: Command, now: datetime = NOW) -> Sequence[Outcome]:
        async with self.outbox.transaction(self.engine) as transaction:
            return await apply(transaction, commands, now)

    async def rows(self, query: str, **values: Any) -> list[Any]:
        async with self.engine.begin() as connection:
            return list((await connection.execute(text(query), values)).all())

    async def balance(self, tenant: str = "acme") -> tuple[int, int, int]:
        """Balance, owed, receivable."""
        row = (await self.rows("SELECT balance, owed, receivable FROM balance WHERE tenant_id = :t", t=tenant))[0]
        return row.balance, row.owed, row.receivable

    async def assert_right(self) -> None:
        """`ledger check` finds nothing wrong."""
        findings = await check(self.engine)
        assert findings.exit_code == 0, findings.wrong
