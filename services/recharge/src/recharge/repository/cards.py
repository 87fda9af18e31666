"""Evidence about cards, and which cards are stopped."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.cards import CardEvidence
from recharge.repository.rows import write_rows

_SAVE = text("""
    WITH saved AS (
        INSERT INTO card_evidence AS mine (tenant_id, payment_method, seen_at)
        SELECT profile.tenant_id, new.payment_method, max(new.seen_at)
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (customer text, payment_method text, seen_at timestamptz)
        JOIN profile ON profile.stripe_customer = new.customer
        GROUP BY profile.tenant_id, new.payment_method ORDER BY profile.tenant_id, new.payment_method
        ON CONFLICT (tenant_id, payment_method) DO UPDATE SET seen_at = excluded.seen_at
        WHERE mine.seen_at < excluded.seen_at
        RETURNING tenant_id
    )
    SELECT DISTINCT tenant_id FROM saved JOIN profile USING (tenant_id)
    WHERE profile.suspended_at IS NOT NULL
       OR EXISTS (SELECT FROM card_stop WHERE card_stop.tenant_id = saved.tenant_id)
       OR EXISTS (SELECT FROM attempt
                  WHERE attempt.tenant_id = saved.tenant_id AND state NOT IN ('credited', 'canceled'))
""")


_STOP = text("""
    INSERT INTO card_stop AS mine (tenant_id, card, payment_method, reason, stopped_at)
    VALUES (:tenant, :card, :payment_method, :reason, :now)
    ON CONFLICT (tenant_id, card) DO UPDATE
    SET payment_method = excluded.payment_method, reason = excluded.reason, stopped_at = excluded.stopped_at
""")


async def save_card_evidence(connection: AsyncConnection, evidence: Sequence[CardEvidence]) -> list[str]:
    """Keeps the newest evidence of each card. Returns the tenants for whom it may lift something. The caller has locked
    them."""
    return [row.tenant_id for row in await write_rows(connection, _SAVE, [asdict(each) for each in evidence])]


async def stop_card(
    connection: AsyncConnection, tenant: str, *, card: str, payment_method: str, reason: str, now: datetime
) -> None:
    """The card, by its identity, is not charged again for this tenant until later evidence lifts that."""
    values = {"tenant": tenant, "card": card, "payment_method": payment_method, "reason": reason, "now": now}
    await connection.execute(_STOP, values)
