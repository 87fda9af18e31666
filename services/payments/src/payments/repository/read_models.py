"""What other services published, kept for frontends: balances, entries and attempts. And a tenant's history."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.events import AttemptChanged, BalanceChanged, EntryPosted


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One line of a tenant's history. `state` is None for entries, which never change."""

    kind: str
    item_id: str
    at: datetime
    label: str
    state: str | None
    reason: str | None
    action_required: str | None
    credits: int
    amount_minor: int | None
    currency: str | None
    payment_intent: str | None


#: The last item of a page: the next one starts after it.
HistoryPosition = tuple[datetime, str, str]


async def save_balances(connection: AsyncConnection, balances: Iterable[BalanceChanged]) -> None:
    """Stores the balances that are newer than the stored ones."""
    newest = {each.tenant: each for each in sorted(balances, key=lambda each: each.version)}
    await _save(connection, _SAVE_BALANCES, [newest[tenant] for tenant in sorted(newest)])


async def save_entries(connection: AsyncConnection, entries: Iterable[EntryPosted]) -> list[str]:
    """Stores the new entries; returns the tenants for which one of them credits a purchase."""
    by_key: dict[tuple[str, str, str], EntryPosted] = {}
    for entry in entries:  # the first one stays, as with one batch per entry
        by_key.setdefault((entry.tenant, entry.door, entry.reference), entry)
    if not by_key:
        return []
    rows = await connection.execute(
        _SAVE_ENTRIES, {"events": json.dumps([by_key[key].model_dump(mode="json") for key in sorted(by_key)])}
    )
    return sorted({row.tenant_id for row in rows if row.kind == "purchase"})


async def save_attempts(connection: AsyncConnection, attempts: Iterable[AttemptChanged]) -> None:
    """Stores the attempts that are newer than the stored ones."""
    newest = {(each.tenant, each.attempt): each for each in sorted(attempts, key=lambda each: each.version)}
    await _save(connection, _SAVE_ATTEMPTS, [newest[key] for key in sorted(newest)])


async def has_attempt_under_way(connection: AsyncConnection, tenant: str) -> bool:
    """Whether recharge is charging a card of the tenant, by the newest event."""
    return (await connection.execute(_ATTEMPT_UNDER_WAY, {"tenant": tenant})).scalar_one()


async def load_balance(connection: AsyncConnection, tenant: str) -> Any | None:
    """The tenant's balance row, or None where the ledger has published none yet."""
    return (await connection.execute(_BALANCE, {"tenant": tenant})).one_or_none()


async def load_history(
    connection: AsyncConnection, tenant: str, after: HistoryPosition | None, limit: int
) -> Sequence[HistoryItem]:
    """A page of entries, purchases and attempts, the newest first."""
    at, kind, item_id = after or (None, None, None)
    rows = await connection.execute(
        _HISTORY, {"tenant": tenant, "at": at, "kind": kind, "item_id": item_id, "limit": limit}
    )
    return [
        HistoryItem(
            kind=row.kind,
            item_id=row.item_id,
            at=row.at,
            label=row.label,
            state=row.state,
            reason=row.reason,
            action_required=row.action_required,
            credits=row.credits,
            amount_minor=row.amount_minor,
            currency=row.currency,
            payment_intent=row.payment_intent,
        )
        for row in rows
    ]


async def _save(connection: AsyncConnection, statement: Any, events: Sequence[BalanceChanged | AttemptChanged]) -> None:
    if events:
        await connection.execute(statement, {"events": json.dumps([each.model_dump(mode="json") for each in events])})


_SAVE_BALANCES = text("""
    INSERT INTO balance AS old
    SELECT tenant, version, available, held, owed, receivable, usage_day, usage_by_purpose, usage_of_other_purposes,
           changed_at
    FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS new (tenant text, version bigint, available bigint, held bigint,
        owed bigint, receivable bigint, usage_day date, usage_by_purpose jsonb, usage_of_other_purposes bigint,
        changed_at timestamptz)
    ON CONFLICT (tenant_id) DO UPDATE SET
        version = excluded.version, available = excluded.available, held = excluded.held, owed = excluded.owed,
        receivable = excluded.receivable, usage_day = excluded.usage_day,
        usage_by_purpose = excluded.usage_by_purpose, usage_of_other_purposes = excluded.usage_of_other_purposes,
        changed_at = excluded.changed_at
    WHERE old.version < excluded.version
""")

_SAVE_ENTRIES = text("""
    INSERT INTO entry
    SELECT tenant, door, reference, kind, credits, amount_minor, currency, payment_intent, purchase, attempt,
           balance_version, posted_at
    FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS new (tenant text, door text, reference text, kind text,
        credits bigint, amount_minor bigint, currency text, payment_intent text, purchase text, attempt text,
        balance_version bigint, posted_at timestamptz)
    ON CONFLICT DO NOTHING
    RETURNING tenant_id, kind
""")

_SAVE_ATTEMPTS = text("""
    INSERT INTO attempt AS old
    SELECT tenant, attempt, version, state, trigger, reason, amount_minor, currency, credits, payment_intent,
           action_required, profile_version, changed_at, changed_at
    FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS new (tenant text, attempt text, version bigint, state text,
        trigger text, reason text, amount_minor bigint, currency text, credits bigint, payment_intent text,
        action_required text, profile_version bigint, changed_at timestamptz)
    ON CONFLICT (tenant_id, attempt_id) DO UPDATE SET
        version = excluded.version, state = excluded.state, trigger = excluded.trigger, reason = excluded.reason,
        amount_minor = excluded.amount_minor, currency = excluded.currency, credits = excluded.credits,
        payment_intent = excluded.payment_intent, action_required = excluded.action_required,
        profile_version = excluded.profile_version, changed_at = excluded.changed_at
    WHERE old.version < excluded.version
""")

_ATTEMPT_UNDER_WAY = text("""
    SELECT EXISTS (SELECT FROM attempt WHERE tenant_id = :tenant AND state IN ('reserved', 'charging', 'unknown'))
""")

_BALANCE = text("SELECT * FROM balance WHERE tenant_id = :tenant")

_HISTORY = text("""
    WITH position AS (SELECT CAST(:at AS timestamptz) AS at, CAST(:kind AS text) AS kind, CAST(:item_id AS text) AS id),
    entries AS (
        SELECT 'entry' AS kind, door || ':' || reference AS item_id, posted_at AS at, entry.kind AS label,
               NULL AS state, NULL AS reason, NULL AS action_required, credits, amount_minor, currency, payment_intent
        FROM entry, position
        WHERE tenant_id = :tenant AND (position.at IS NULL OR posted_at <= position.at)
          AND (position.at IS NULL OR (posted_at, 'entry', door || ':' || reference)
               < (position.at, position.kind, position.id))
        ORDER BY posted_at DESC, door || ':' || reference DESC LIMIT :limit
    ), bought AS (
        SELECT 'purchase' AS kind, purchase_id AS item_id, created_at AS at, coalesce(package_id, 'custom') AS label,
               state, decline_code AS reason, NULL AS action_required, credits, amount_minor, currency, payment_intent
        FROM purchase, position
        WHERE tenant_id = :tenant AND (position.at IS NULL OR created_at <= position.at)
          AND (position.at IS NULL OR (created_at, 'purchase', purchase_id) < (position.at, position.kind, position.id))
        ORDER BY created_at DESC, purchase_id DESC LIMIT :limit
    ), recharged AS (
        SELECT 'attempt' AS kind, attempt_id AS item_id, first_seen_at AS at, trigger AS label,
               state, reason, action_required, credits, amount_minor, currency, payment_intent
        FROM attempt, position
        WHERE tenant_id = :tenant AND (position.at IS NULL OR first_seen_at <= position.at)
          AND (position.at IS NULL OR (first_seen_at, 'attempt', attempt_id)
               < (position.at, position.kind, position.id))
        ORDER BY first_seen_at DESC, attempt_id DESC LIMIT :limit
    )
    SELECT * FROM entries UNION ALL SELECT * FROM bought UNION ALL SELECT * FROM recharged
    ORDER BY at DESC, kind DESC, item_id DESC LIMIT :limit
""")
