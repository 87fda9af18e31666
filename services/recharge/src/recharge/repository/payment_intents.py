"""Which tenant owns a PaymentIntent."""

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.repository.rows import write_rows

_SAVE_PAYMENT_INTENTS = text("""
    INSERT INTO tenant_payment_intent (tenant_id, payment_intent)
    SELECT DISTINCT tenant_id, payment_intent
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (tenant_id text, payment_intent text)
    ORDER BY tenant_id, payment_intent
    ON CONFLICT DO NOTHING
""")


async def save_payment_intents(connection: AsyncConnection, owned: Iterable[tuple[str, str]]) -> None:
    """Records which tenant owns which PaymentIntent: (tenant, PaymentIntent)."""
    rows = [{"tenant_id": tenant, "payment_intent": payment_intent} for tenant, payment_intent in owned]
    await write_rows(connection, _SAVE_PAYMENT_INTENTS, rows)
