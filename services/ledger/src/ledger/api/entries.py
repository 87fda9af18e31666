"""`GET /entries`: everything that moved a tenant's credits."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from ledger.api.body import Body, EntryReference, Time
from ledger.api.dependencies import AppDependencies, Reader
from ledger.api.errors import invalid_cursor
from ledger.api.pages import CursorText, Limit, cursor_of
from ledger.core.accounts import Kind
from ledger.core.state import balance_change
from ledger.repository.cursor import Cursor, InvalidCursor
from ledger.repository.entries import EntryFilter, read_entries
from shared.database import tenant_transaction
from shared.problems import problem_responses

router = APIRouter()
_COMPUTED = {"credits", "moved_credits", "posted_at"}


class EntryBody(Body):
    version: int
    door: str
    reference: str
    kind: str
    source: str = Field(description="The account that the credits left.")
    destination: str = Field(description="The account that they came to.")
    credits: int = Field(description="What the entry changed the balance by: 0 for a hold or its release.")
    moved_credits: int = Field(description="How many moved from `source` to `destination`.")
    balance_after: int
    available_after: int
    beyond_limit: bool = Field(description="Usage that went beyond the tenant's overdraft limit.")
    amount_minor: int | None
    currency: str | None
    payment_intent: str | None
    purchase: str | None
    attempt: str | None
    purpose: str | None
    occurred_at: datetime | None
    posted_at: datetime


class EntriesBody(Body):
    entries: list[EntryBody] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="Ask again with this as `cursor` for older entries; null at the end.")


@router.get("/entries", responses=problem_responses(401, 403, 422, 500, 503))
async def get_entries(
    dependencies: AppDependencies,
    principal: Reader,
    limit: Limit = 50,
    cursor: CursorText = None,
    kind: Annotated[list[Kind] | None, Query(description="Only these kinds; may be repeated.")] = None,
    since: Annotated[Time | None, Query(alias="from", description="Posted at or after.")] = None,
    until: Annotated[Time | None, Query(alias="to", description="Posted before.")] = None,
    reference: Annotated[EntryReference | None, Query()] = None,
) -> EntriesBody:
    """Everything that moved the tenant's credits, newest first."""
    tenant = principal.own_tenant
    chosen = EntryFilter(frozenset(kind or ()), since, until, reference)
    before = cursor_of(cursor)
    async with tenant_transaction(dependencies.api_engine, tenant) as connection:
        try:
            rows = await read_entries(connection, tenant, chosen, before=before, limit=limit)
        except InvalidCursor as error:
            raise invalid_cursor() from error
    last = rows[-1] if len(rows) == limit else None
    return EntriesBody(
        entries=[
            EntryBody(
                **{name: getattr(row, name) for name in EntryBody.model_fields if name not in _COMPUTED},
                credits=balance_change(row.source, row.destination, row.credits),
                moved_credits=row.credits,
                posted_at=row.created_at,
            )
            for row in rows
        ],
        next_cursor=None if last is None else Cursor(last.created_at, str(last.version)).encode(),
    )
