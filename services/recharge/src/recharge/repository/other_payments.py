"""Payments in an attempt's name by another PaymentIntent than its own, or than the one known then."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.attempts import month_of
from recharge.core.proof import LedgerPayments
from recharge.repository.rows import write_rows

_SAVE = text("""
    INSERT INTO other_payment AS mine (tenant_id, payment_intent, attempt, amount_minor, currency, month, is_credited,
                                       seen_at)
    SELECT tenant_id, payment_intent, attempt, amount_minor, currency, CAST(:month AS date), is_credited, :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, payment_intent text, attempt text, amount_minor bigint, currency text,
                 is_credited boolean)
    ON CONFLICT (tenant_id, payment_intent) DO UPDATE SET is_credited = true
    WHERE excluded.is_credited AND NOT mine.is_credited
""")

_NAMED = text("""
    SELECT payment_intent, is_credited FROM other_payment WHERE tenant_id = :tenant AND attempt = :attempt
""")

_TAKE = text("""
    DELETE FROM other_payment WHERE tenant_id = :tenant AND payment_intent = :payment_intent
    RETURNING is_credited
""")


async def save_other_payments(connection: AsyncConnection, payments: Sequence[dict[str, Any]], now: datetime) -> None:
    """Keeps payments that count in this month's cap: rows of tenant_id, payment_intent, attempt, amount_minor,
    currency, is_credited."""
    await write_rows(connection, _SAVE, payments, month=month_of(now), now=now)


async def load_ledger_payments(connection: AsyncConnection, tenant: str, attempt: str) -> LedgerPayments:
    """The payments in this attempt's name by another PaymentIntent than is known to be its own."""
    rows = (await connection.execute(_NAMED, {"tenant": tenant, "attempt": attempt})).all()
    return LedgerPayments(
        credited=frozenset(row.payment_intent for row in rows if row.is_credited),
        uncredited=frozenset(row.payment_intent for row in rows if not row.is_credited),
    )


async def take_other_payment(connection: AsyncConnection, tenant: str, payment_intent: str) -> bool | None:
    """Takes out a payment that has turned out to be an attempt's own, and returns whether its credits were posted;
    None where it was never here."""
    row = await connection.execute(_TAKE, {"tenant": tenant, "payment_intent": payment_intent})
    return row.scalar_one_or_none()
