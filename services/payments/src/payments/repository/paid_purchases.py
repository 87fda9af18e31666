"""Paid purchases whose entry has not come yet. Their `look_at` is when the entry is overdue."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

#: The ledger adds this to a PaymentIntent's id in the reference of an unapplied receipt.
UNAPPLIED_SUFFIX = ":unapplied"


async def stop_watching_credited(connection: AsyncConnection) -> None:
    """Stops watching those that have an entry: a credit, or an unapplied receipt."""
    await connection.execute(_STOP_WATCHING_CREDITED, {"suffix": UNAPPLIED_SUFFIX})


async def load_overdue(connection: AsyncConnection, now: datetime) -> Sequence[Any]:
    """Those whose entry is overdue, the oldest first: rows of tenant_id, purchase_id, payment_intent."""
    return (await connection.execute(_OVERDUE, {"now": now})).all()


# A count, because PostgreSQL plans EXISTS as a join with all entries. Few purchases are watched, with a look-up each.
_STOP_WATCHING_CREDITED = text("""
    UPDATE purchase SET look_at = NULL
    WHERE look_at IS NOT NULL AND state = 'succeeded' AND 0 < (
        SELECT count(*) FROM entry WHERE entry.tenant_id = purchase.tenant_id AND entry.door = 'stripe'
            AND entry.reference IN (purchase.payment_intent, purchase.payment_intent || CAST(:suffix AS text)))
""")

_OVERDUE = text("""
    SELECT tenant_id, purchase_id, payment_intent FROM purchase
    WHERE look_at <= :now AND state = 'succeeded' ORDER BY look_at, purchase_id
""")
