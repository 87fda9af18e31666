"""`/api/credits/history`: a tenant's entries, purchases and attempts, the newest first."""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from payments.api.body import Body
from payments.api.dependencies import AppDependencies, Reader
from payments.api.errors import COMMON_PROBLEMS
from payments.repository import read_models
from payments.repository.read_models import HistoryItem, HistoryPosition
from shared.database import tenant_transaction
from shared.problems import Problem

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200

router = APIRouter(tags=["credits"])


class HistoryEntry(Body):
    kind: str = Field(description="entry (in the ledger), purchase, or attempt (to charge a saved card).")
    id: str
    at: datetime
    label: str = Field(description="The entry's kind, the purchase's package or `custom`, or what began the attempt.")
    state: str | None
    reason: str | None
    action_required: str | None
    credits: int
    amount_minor: int | None
    currency: str | None
    payment_intent_id: str | None


class HistoryPage(Body):
    items: list[HistoryEntry]
    next_cursor: str | None


@router.get("/api/credits/history", responses=COMMON_PROBLEMS)
async def get_history(
    principal: Reader,
    dependencies: AppDependencies,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE_DEFAULT,
) -> HistoryPage:
    tenant = principal.own_tenant
    after = decode_cursor(cursor) if cursor is not None else None
    async with tenant_transaction(dependencies.workflows.engine, tenant) as connection:
        items = await read_models.load_history(connection, tenant, after, limit + 1)
    page = items[:limit]
    last = page[-1] if len(items) > limit else None
    return HistoryPage(
        items=[_entry(item) for item in page],
        next_cursor=encode_cursor((last.at, last.kind, last.item_id)) if last is not None else None,
    )


def encode_cursor(position: HistoryPosition) -> str:
    """The position as opaque text."""
    at, kind, item_id = position
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), kind, item_id]).encode()).decode()


def decode_cursor(cursor: str) -> HistoryPosition:
    """The position in a cursor; raises a Problem 422 for anything else."""
    try:
        at, kind, item_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        position = (datetime.fromisoformat(at), str(kind), str(item_id))
        if position[0].tzinfo is None:
            raise ValueError("a time without zone")
        position[0].astimezone(UTC)  # raises where the year is not 1 to 9999
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
