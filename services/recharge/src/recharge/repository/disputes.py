"""Disputes of payments."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.disputes import DisputeSeen
from recharge.repository.rows import write_rows

# Closed is for good; among the others the newer event wins.
_SAVE_DISPUTES = text("""
    INSERT INTO dispute AS mine (dispute, payment_intent, status, opened_at, seen_at, closed_at)
    SELECT dispute, payment_intent, status, seen_at, seen_at, closed_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (dispute text, payment_intent text, status text, seen_at timestamptz, closed_at timestamptz)
    ORDER BY dispute
    ON CONFLICT (dispute) DO UPDATE
    SET status = CASE WHEN mine.closed_at IS NOT NULL THEN mine.status
                      WHEN excluded.closed_at IS NOT NULL OR excluded.seen_at >= mine.seen_at THEN excluded.status
                      ELSE mine.status END,
        opened_at = LEAST(mine.opened_at, excluded.opened_at),
        seen_at = GREATEST(mine.seen_at, excluded.seen_at),
        closed_at = COALESCE(mine.closed_at, excluded.closed_at)
""")

_TENANTS_OF_PAYMENT_INTENTS = text("""
    SELECT DISTINCT tenant_id FROM tenant_payment_intent
    WHERE payment_intent = ANY (CAST(:payment_intents AS text[]))
""")


async def save_disputes(connection: AsyncConnection, disputes: Sequence[DisputeSeen]) -> list[str]:
    """Keeps the newest state of each dispute; returns the tenants known to own their PaymentIntents."""
    newest: dict[str, DisputeSeen] = {}
    for each in sorted(disputes, key=lambda each: (each.closed_at is not None, each.seen_at)):
        newest[each.dispute] = each
    await write_rows(connection, _SAVE_DISPUTES, [asdict(each) for each in newest.values()])
    found = await connection.execute(
        _TENANTS_OF_PAYMENT_INTENTS, {"payment_intents": sorted({each.payment_intent for each in disputes})}
    )
    return [row.tenant_id for row in found]
