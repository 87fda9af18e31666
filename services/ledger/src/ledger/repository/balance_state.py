"""The current state of `ledger.balance-changed`: read when it is published, and by the API."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Text, any_, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.repository.tables import balance
from shared.events import BalanceChanged, DomainEvent
from shared.outbox_publisher import StateSource
from shared.topics import TopicName

PURPOSES_PUBLISHED_MAX = 20


async def load_balances(connection: AsyncConnection, tenants: Sequence[str]) -> Mapping[str, tuple[int, DomainEvent]]:
    """The current (version, event) of each tenant that has a balance."""
    rows = await connection.execute(select(balance).where(balance.c.tenant_id == any_(literal(tenants, ARRAY(Text)))))
    return {row.tenant_id: (row.version, balance_changed(row)) for row in rows}


def balance_changed(row: Any) -> BalanceChanged:
    """The event of a row of `balance`."""
    by_purpose, of_others = row.usage_by_purpose, row.usage_of_other_purposes
    if len(by_purpose) > PURPOSES_PUBLISHED_MAX:
        largest = sorted(by_purpose.items(), key=lambda item: (-item[1], item[0]))
        of_others += sum(credits for _purpose, credits in largest[PURPOSES_PUBLISHED_MAX:])
        by_purpose = dict(largest[:PURPOSES_PUBLISHED_MAX])
    return BalanceChanged(
        tenant=row.tenant_id,
        version=row.version,
        available=row.balance - row.held,
        held=row.held,
        owed=row.owed,
        receivable=row.receivable,
        usage_day=row.usage_day,
        usage_by_purpose=by_purpose,
        usage_of_other_purposes=of_others,
        changed_at=row.changed_at,
    )


BALANCE_STATE = StateSource(TopicName.BALANCE_CHANGED, load_balances)
