"""Unapplied receipts: what operators read."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.repository.cursor import Cursor
from ledger.repository.tables import payment_intent, unapplied_receipt


async def read_unapplied_receipts(
    connection: AsyncConnection, *, after: Cursor | None, limit: int
) -> Sequence[Row[Any]]:
    """Receipts that are not resolved, oldest first."""
    return (await connection.execute(unapplied_receipts_query(after=after, limit=limit))).all()


def unapplied_receipts_query(*, after: Cursor | None, limit: int) -> Select[Any]:
    """See `read_unapplied_receipts`."""
    query = (
        select(unapplied_receipt)
        .where(unapplied_receipt.c.resolved_at.is_(None))
        .order_by(unapplied_receipt.c.received_at, unapplied_receipt.c.payment_intent)
        .limit(limit)
    )
    if after is not None:
        key = tuple_(unapplied_receipt.c.received_at, unapplied_receipt.c.payment_intent)
        query = query.where(key > (after.at, after.last))
    return query


async def read_receipt(connection: AsyncConnection, name: str) -> Row[Any] | None:
    """The receipt of this PaymentIntent, resolved or not; None if it has none, or one of no money."""
    return (await connection.execute(receipt_query(name))).one_or_none()


def receipt_query(name: str) -> Select[Any]:
    """See `read_receipt`. The key of a receipt begins with the tenant that it claims, which the PaymentIntent has
    too."""
    of_intent = (unapplied_receipt.c.tenant_id == payment_intent.c.receipt_tenant) & (
        unapplied_receipt.c.payment_intent == payment_intent.c.payment_intent
    )
    return (
        select(unapplied_receipt)
        .join(payment_intent, of_intent)
        .where(payment_intent.c.payment_intent == name, unapplied_receipt.c.amount_minor > 0)
    )
