"""Routes by which a tenant reads its own books. They run as `ledger_api`, within the caller's tenant."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from ledger.api.answers import invalid_cursor, unknown_tenant
from ledger.api.bodies import (
    BalanceBody,
    EntriesBody,
    EntryBody,
    EntryReference,
    GrantBody,
    GrantsBody,
    PastBalanceBody,
    Time,
)
from ledger.api.callers import Reader
from ledger.api.pages import CursorText, Limit, cursor_of
from ledger.balance_state import balance_changed
from ledger.core.accounts import Kind
from ledger.core.state import balance_change
from ledger.reading import (
    Cursor,
    EntryFilter,
    InvalidCursor,
    read_balance,
    read_balance_at,
    read_entries,
    read_grants,
)
from shared.database import tenant_transaction
from shared.problems import problem_responses

router = APIRouter()

_COMPUTED = {"credits", "moved_credits", "posted_at"}


@router.get("/balance", responses=problem_responses(401, 403, 404, 422, 500, 503))
async def get_balance(
    request: Request,
    principal: Reader,
    at: Annotated[Time | None, Query(description="A time in the past, with its zone.")] = None,
) -> BalanceBody | PastBalanceBody:
    """What the tenant has, and owes; with `at` what it had then."""
    tenant = principal.own_tenant
    async with tenant_transaction(request.app.state.api_engine, tenant) as connection:
        row = await read_balance(connection, tenant)
        last = None if row is None or at is None else await read_balance_at(connection, tenant, at)
    if row is None:
        raise unknown_tenant()
    if at is None:
        state = balance_changed(row)
        return BalanceBody(tenant_id=state.tenant, **state.model_dump(exclude={"tenant"}))
    if last is None:
        return PastBalanceBody(tenant_id=tenant, at=at, version=0, available=0, held=0, owed=0, receivable=0)
    return PastBalanceBody(
        tenant_id=tenant, at=at, version=last.version, available=last.available_after,
        held=last.balance_after - last.available_after, owed=last.owed_after, receivable=last.receivable_after,
    )  # fmt: skip


@router.get("/entries", responses=problem_responses(401, 403, 422, 500, 503))
async def get_entries(
    request: Request,
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
    async with tenant_transaction(request.app.state.api_engine, tenant) as connection:
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


@router.get("/grants", responses=problem_responses(401, 403, 422, 500, 503))
async def get_grants(
    request: Request,
    principal: Reader,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`nextBefore` of a page.")] = None,
    spent: Annotated[bool, Query(description="Also those of which nothing is free any more.")] = False,
) -> GrantsBody:
    """The tenant's lots of credits, newest first."""
    tenant = principal.own_tenant
    async with tenant_transaction(request.app.state.api_engine, tenant) as connection:
        rows = await read_grants(connection, tenant, before=before, limit=limit, with_spent=spent)
    return GrantsBody(
        grants=[GrantBody.model_validate(row, from_attributes=True) for row in rows],
        next_before=rows[-1].grant_number if len(rows) == limit else None,
    )
