"""HTTP door: routes only. Reads run as `ledger_api` within the caller's tenant, debits as `ledger_worker` in groups,
each authorised here before it joins one."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, assert_never

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.apply import apply
from ledger.balance_state import BALANCE_STATE, balance_changed
from ledger.core.commands import (
    BeyondLimit,
    Conflict,
    Debit,
    Insufficient,
    Noted,
    Outcome,
    Posted,
    UnknownTenant,
    Waiting,
)
from ledger.group_commit import GroupCommit, TooManyWaiting
from ledger.reading import Cursor, InvalidCursor, read_balance, read_entries, read_unapplied_receipts
from ledger.schemas import (
    BalanceBody,
    DebitBody,
    DebitRequest,
    EntriesBody,
    EntryBody,
    UnappliedReceiptBody,
    UnappliedReceiptsBody,
)
from ledger.settings import AppSettings
from shared.auth import Authenticator, Principal, Scope, requires
from shared.clock import utc_now
from shared.database import make_engine, tenant_transaction
from shared.faults import fault_point
from shared.http import create_http_app
from shared.problems import Problem, problem_responses
from shared.runtime import Runtime, run_api, start_runtime

API_POOL_SIZE = 8
PAGE_MAX = 200
CURSOR_CHARACTERS_MAX = 500

router = APIRouter(prefix="/api/ledger")

Reader = Annotated[Principal, Depends(requires(Scope.BILLING_READ))]
Debitor = Annotated[Principal, Depends(requires(Scope.CREDITS_DEBIT, Scope.CREDITS_DEBIT_ANY))]
Operator = Annotated[Principal, Depends(requires(Scope.OPERATOR))]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
CursorText = Annotated[str | None, Query(max_length=CURSOR_CHARACTERS_MAX, description="`nextCursor` of a page.")]


async def run(settings: AppSettings, stopping: asyncio.Event) -> None:
    """Serves the API until `stopping`."""
    authenticator = Authenticator(settings)
    api_engine = make_engine(
        settings.database_url_api.get_secret_value(), application_name="ledger-api", pool_size=API_POOL_SIZE
    )
    try:
        async with start_runtime(
            "ledger", settings, settings, settings.database_url_worker.get_secret_value(), states=[BALANCE_STATE]
        ) as runtime:
            app = create_app(runtime, api_engine, authenticator, settings.cors_origins)
            await run_api(stopping, runtime, app, settings)
    finally:
        await api_engine.dispose()


def create_app(
    runtime: Runtime, api_engine: AsyncEngine, authenticator: Authenticator, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """The API. `api_engine` has the role `ledger_api`, the runtime's engine `ledger_worker`."""

    async def commit(commands: Sequence[Debit]) -> Sequence[Outcome]:
        async with runtime.outbox.transaction(runtime.engine) as transaction:
            outcomes = await apply(transaction, commands, utc_now())
            await fault_point("ledger.debits_planned")
        await fault_point("ledger.debits_committed")
        return outcomes

    app = create_http_app(
        "Prepaid ledger",
        description="Balances, entries and debits of prepaid credits.",
        readiness=runtime.readiness,
        cors_origins=list(cors_origins),
    )
    app.state.authenticator = authenticator
    app.state.api_engine = api_engine
    app.state.worker_engine = runtime.engine
    app.state.debits = GroupCommit(commit)
    app.include_router(router)
    return app


@router.get("/balance", responses=problem_responses(401, 403, 404, 500, 503))
async def get_balance(request: Request, principal: Reader) -> BalanceBody:
    """What the tenant has, and owes."""
    tenant = principal.own_tenant
    async with tenant_transaction(request.app.state.api_engine, tenant) as connection:
        row = await read_balance(connection, tenant)
    if row is None:
        raise _unknown_tenant()
    state = balance_changed(row)
    return BalanceBody(tenant_id=state.tenant, **state.model_dump(exclude={"tenant"}))


@router.get("/entries", responses=problem_responses(401, 403, 422, 500, 503))
async def get_entries(request: Request, principal: Reader, limit: Limit = 50, cursor: CursorText = None) -> EntriesBody:
    """Everything that moved the tenant's credits, newest first."""
    tenant = principal.own_tenant
    before = _cursor(cursor)
    async with tenant_transaction(request.app.state.api_engine, tenant) as connection:
        try:
            rows = await read_entries(connection, tenant, before=before, limit=limit)
        except InvalidCursor as error:
            raise _invalid_cursor() from error
    last = rows[-1] if len(rows) == limit else None
    return EntriesBody(
        entries=[
            EntryBody(
                **{name: getattr(row, name) for name in EntryBody.model_fields if name not in {"credits", "posted_at"}},
                credits=row.credits if row.destination == "available" else -row.credits,
                posted_at=row.created_at,
            )
            for row in rows
        ],
        next_cursor=None if last is None else Cursor(last.created_at, str(last.version)).encode(),
    )


@router.post("/debits", responses=problem_responses(401, 402, 403, 404, 409, 413, 422, 500, 503))
async def post_debit(request: Request, principal: Debitor, body: DebitRequest) -> DebitBody:
    """Uses credits, or refuses with 402 and what is available. The same reference again answers the first result."""
    tenant = _debited_tenant(principal, body)
    debits: GroupCommit = request.app.state.debits
    try:
        outcome = await debits.submit(Debit(tenant, body.reference, body.credits, body.purpose))
    except TooManyWaiting as error:
        raise Problem(
            503, "overloaded", "Too many debits are waiting. Repeat with the same reference.", {"Retry-After": "1"}
        ) from error
    match outcome:
        case Posted(version, credits, available_after, posted_at):
            return DebitBody(
                tenant_id=tenant, reference=body.reference, credits=credits, available=available_after,
                balance_version=version, posted_at=posted_at,
            )  # fmt: skip
        case Insufficient(available):
            raise Problem(
                402, "insufficient_credits", f"{available} credits are available. Buy more, or debit less.",
                available=available,
            )  # fmt: skip
        case Conflict():
            raise Problem(
                409, "reference_conflict", "This reference carries other credits already. Use a new reference."
            )
        case UnknownTenant():
            raise _unknown_tenant()
        case BeyondLimit() | Waiting() | Noted():
            raise AssertionError(f"a debit never ends as {outcome}")
        case _:
            assert_never(outcome)


@router.get("/unapplied-receipts", responses=problem_responses(401, 403, 422, 500, 503))
async def get_unapplied_receipts(
    request: Request, _principal: Operator, limit: Limit = 50, cursor: CursorText = None
) -> UnappliedReceiptsBody:
    """Money that came for credits and could not be believed, oldest first; an operator has to look at each."""
    engine: AsyncEngine = request.app.state.worker_engine
    async with engine.begin() as connection:
        rows = await read_unapplied_receipts(connection, after=_cursor(cursor), limit=limit)
    last = rows[-1] if len(rows) == limit else None
    return UnappliedReceiptsBody(
        unapplied_receipts=[
            UnappliedReceiptBody(
                payment_intent=row.payment_intent, claimed_tenant_id=row.tenant_id or None,
                amount_minor=row.amount_minor, currency=row.currency, reason=row.reason, purchase=row.purchase,
                attempt=row.attempt, received_at=row.received_at,
            )
            for row in rows
        ],
        next_cursor=None if last is None else Cursor(last.received_at, last.payment_intent).encode(),
    )  # fmt: skip


def _debited_tenant(principal: Principal, body: DebitRequest) -> str:
    """Whose credits the caller may use: a product's token names a tenant, any other has its own."""
    if Scope.CREDITS_DEBIT_ANY in principal.scopes and principal.tenant is None:
        if body.tenant_id is None:
            raise Problem(422, "tenant_missing", "This token serves every tenant: name one in `tenantId`.")
        return body.tenant_id
    if body.tenant_id is not None and body.tenant_id != principal.own_tenant:
        raise Problem(403, "foreign_tenant", "This token debits its own tenant only. Leave `tenantId` out.")
    return principal.own_tenant


def _cursor(text: str | None) -> Cursor | None:
    try:
        return None if text is None else Cursor.decode(text)
    except InvalidCursor as error:
        raise _invalid_cursor() from error


def _invalid_cursor() -> Problem:
    return Problem(422, "invalid_cursor", "Use the `nextCursor` of the page before, as it was.")


def _unknown_tenant() -> Problem:
    return Problem(404, "unknown_tenant", "The tenant has never had credits. Buy some first.")
