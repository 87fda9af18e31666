"""A tenant's balance and history, from what the ledger and recharge have told."""

import base64
import binascii
import json
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from payments.repository import read_models
from payments.repository.read_models import HistoryItem, HistoryPosition
from payments.schemas import BalanceBody, HistoryEntry, HistoryPage
from shared.database import tenant_transaction
from shared.problems import Problem


async def read_balance(engine: AsyncEngine, tenant: str) -> BalanceBody:
    """The balance as the ledger last told it."""
    async with tenant_transaction(engine, tenant) as connection:
        row = await read_models.load_balance(connection, tenant)
    if row is None:
        return BalanceBody(version=0, available=0, held=0, owed=0, receivable=0, usage_by_purpose={}, changed_at=None)
    return BalanceBody(
        version=row.version,
        available=row.available,
        held=row.held,
        owed=row.owed,
        receivable=row.receivable,
        usage_by_purpose=row.usage_by_purpose,
        changed_at=row.changed_at,
    )


async def read_history(engine: AsyncEngine, tenant: str, cursor: str | None, limit: int) -> HistoryPage:
    """A page, the newest first; `next_cursor` is None on the last one. A cursor that is not ours is a Problem 422."""
    after = decode_cursor(cursor) if cursor is not None else None
    async with tenant_transaction(engine, tenant) as connection:
        items = await read_models.load_history(connection, tenant, after, limit + 1)
    page = items[:limit]
    more = len(items) > limit
    last = page[-1] if more else None
    return HistoryPage(
        items=[_entry(item) for item in page],
        next_cursor=encode_cursor((last.at, last.kind, last.item_id)) if last is not None else None,
    )


def encode_cursor(position: HistoryPosition) -> str:
    """The position as an opaque text."""
    at, kind, item_id = position
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), kind, item_id]).encode()).decode()


def decode_cursor(cursor: str) -> HistoryPosition:
    """The position in a cursor; a Problem 422 for anything else."""
    try:
        at, kind, item_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        position = (datetime.fromisoformat(at), str(kind), str(item_id))
        if position[0].tzinfo is None:
            raise ValueError("a time without zone")
        position[0].astimezone(UTC)  # may leave the years 1 to 9999
        if b"\x00" in f"{kind}{item_id}".encode():
            raise ValueError("a character that no text column holds")
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise Problem(422, "invalid_cursor", "Use the nextCursor of the page before, unchanged.") from error
    return position


def _entry(item: HistoryItem) -> HistoryEntry:
    return HistoryEntry(
        kind=item.kind,
        id=item.item_id,
        at=item.at,
        label=item.label,
        state=item.state,
        reason=item.reason,
        action_required=item.action_required,
        credits=item.credits,
        amount_minor=item.amount_minor,
        currency=item.currency,
        payment_intent_id=item.payment_intent,
    )
