"""Purchases that are paid and whose entry has not come: those with a time at which it is overdue."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

#: What the ledger adds to a PaymentIntent's id where its money bought nothing.
UNAPPLIED_SUFFIX = ":unapplied"


async def forget_credited(connection: AsyncConnection) -> None:
    """Watches those no longer that the ledger has told of: by their credit, or as an unapplied receipt."""
    await connection.execute(_FORGET_CREDITED, {"suffix": UNAPPLIED_SUFFIX})


async def overdue(connection: AsyncConnection, now: datetime) -> Sequence[Any]:
    """Those that the ledger should have told of, longest ago first: tenant_id, purchase_id, payment_intent."""
    return (await connection.execute(_OVERDUE, {"now": now})).all()


# Counted, since EXISTS would be made a join with all entries: few purchases are watched, and each has one look-up.
_FORGET_CREDITED = text("""
    UPDATE purchase SET look_at = NULL
    WHERE look_at IS NOT NULL AND state = 'succeeded' AND 0 < (
        SELECT count(*) FROM entry WHERE entry.tenant_id = purchase.tenant_id AND entry.door = 'stripe'
            AND entry.reference IN (purchase.payment_intent, purchase.payment_intent || CAST(:suffix AS text)))
""")

_OVERDUE = text("""
    SELECT tenant_id, purchase_id, payment_intent FROM purchase
    WHERE look_at <= :now AND state = 'succeeded' ORDER BY look_at, purchase_id
""")
