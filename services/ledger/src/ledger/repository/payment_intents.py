"""PaymentIntents outside a batch: what is compared with Stripe, and those whose reversals wait for a credit."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.core.reconciling import InBooks
from ledger.repository.payment_intent_rows import payment_intent_of
from ledger.repository.tables import payment_intent, unapplied_receipt

ROWS_MAX = 500
LOOK_UP_AFTER = timedelta(days=1)
_is_waiting = payment_intent.c.tenant_id.is_(None) & payment_intent.c.receipt_tenant.is_(None)
# A batch inserts missing rows, and locks them in its next statement. Between the two, a lock on the row would not keep
# us from deleting a row that the batch is about to update. This lock waits for all such batches, and lets none begin.
_KEEP_WRITERS_OUT = text("LOCK TABLE payment_intent IN SHARE ROW EXCLUSIVE MODE")
_PAYMENTS = select(
    payment_intent,
    unapplied_receipt.c.amount_minor.label("receipt_amount_minor"),
    unapplied_receipt.c.currency.label("receipt_currency"),
).select_from(
    payment_intent.outerjoin(
        unapplied_receipt,
        (unapplied_receipt.c.tenant_id == payment_intent.c.receipt_tenant)
        & (unapplied_receipt.c.payment_intent == payment_intent.c.payment_intent),
    )
)


def payments_query(names: Sequence[str]) -> Select[Any]:
    """The PaymentIntents of these ids, with their unapplied receipts."""
    return _PAYMENTS.where(payment_intent.c.payment_intent.in_(names))


def books_since_query(after: tuple[datetime, str], until: datetime) -> Select[Any]:
    """A page of payments that were recorded after that one (time and PaymentIntent) and by `until`."""
    position = payment_intent.c.first_seen_at, payment_intent.c.payment_intent
    return (
        _PAYMENTS.where(
            tuple_(*position) > tuple_(*after),
            payment_intent.c.first_seen_at <= until,
            payment_intent.c.tenant_id.is_not(None) | payment_intent.c.receipt_tenant.is_not(None),
        )
        .order_by(*position)
        .limit(ROWS_MAX)
    )


def in_books_of(row: Any) -> InBooks:
    """From a row of `payments_query` or `books_since_query`."""
    receipt_minor: int | None = row["receipt_amount_minor"]
    return InBooks(payment_intent_of(row), None if receipt_minor is None else (receipt_minor, row["receipt_currency"]))


def due_look_ups_query(now: datetime, limit: int) -> Select[str]:
    """PaymentIntents whose reversals have waited for a day since they came or were last looked up."""
    since = func.coalesce(payment_intent.c.looked_up_at, payment_intent.c.first_seen_at)
    return (
        select(payment_intent.c.payment_intent)
        .where(_is_waiting, since <= now - LOOK_UP_AFTER)
        .order_by(since)
        .limit(limit)
    )


async def resolve_look_ups(
    connection: AsyncConnection, *, foreign: Sequence[str], unfinished: Sequence[str], now: datetime
) -> list[str]:
    """Deletes the foreign PaymentIntents and notes when the unfinished ones were looked up, unless they have been
    credited meanwhile. Returns what was deleted."""
    name = payment_intent.c.payment_intent
    await connection.execute(_KEEP_WRITERS_OUT)
    dropped = list(
        await connection.scalars(delete(payment_intent).where(_is_waiting, name.in_(foreign)).returning(name))
    )
    await connection.execute(update(payment_intent).where(_is_waiting, name.in_(unfinished)).values(looked_up_at=now))
    return dropped
