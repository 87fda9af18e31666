"""Routes for operators: tenants and their limits, promotions, adjustments, unapplied receipts."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.api.answers import refusal, unknown_receipt, unknown_tenant
from ledger.api.bodies import (
    AdjustmentRequest,
    Identifier,
    OperationBody,
    PromotionRequest,
    ReceiptCreditRequest,
    TenantBody,
    TenantId,
    TenantRequest,
    UnappliedReceiptBody,
    UnappliedReceiptsBody,
)
from ledger.api.callers import Operator
from ledger.api.committing import commit
from ledger.api.pages import CursorText, Limit, cursor_of
from ledger.core.accounts import Kind
from ledger.core.commands import Adjustment, Credit, Posted, Promotion
from ledger.reading import Cursor, read_balance, read_receipt, read_unapplied_receipts
from ledger.tenants import set_tenant
from shared.clock import transaction_time
from shared.problems import problem_responses

router = APIRouter()

Tenant = Annotated[TenantId, Path()]
PaymentIntentName = Annotated[Identifier, Path(description="Stripe's id of it: `pi_…`.")]


@router.put("/tenants/{tenant_id}", responses=problem_responses(401, 403, 413, 422, 500, 503))
async def put_tenant(request: Request, _principal: Operator, tenant_id: Tenant, body: TenantRequest) -> TenantBody:
    """Announces a tenant, so that it can be given and used credits before it has bought any, and sets its limits."""
    engine: AsyncEngine = request.app.state.worker_engine
    async with engine.begin() as connection:
        now = await transaction_time(connection)
        await set_tenant(connection, tenant_id, overdraft_limit=body.overdraft_limit, now=now)
        row = await read_balance(connection, tenant_id)
    assert row is not None, "it was just written"
    return _tenant_body(row)


@router.get("/tenants/{tenant_id}", responses=problem_responses(401, 403, 404, 422, 500, 503))
async def get_tenant(request: Request, _principal: Operator, tenant_id: Tenant) -> TenantBody:
    """A tenant's limits and balance."""
    engine: AsyncEngine = request.app.state.worker_engine
    async with engine.begin() as connection:
        row = await read_balance(connection, tenant_id)
    if row is None:
        raise unknown_tenant()
    return _tenant_body(row)


@router.post("/promotions", responses=problem_responses(401, 403, 404, 409, 413, 422, 500, 503))
async def post_promotion(request: Request, _principal: Operator, body: PromotionRequest) -> OperationBody:
    """Gives credits, which are spent before those that were paid for unless `priority` says otherwise."""
    command = Promotion(body.tenant_id, body.reference, body.credits, body.priority, body.expires_at, body.reason)
    return await _operate(request, command)


@router.post("/adjustments", responses=problem_responses(401, 403, 404, 409, 413, 422, 500, 503))
async def post_adjustment(request: Request, _principal: Operator, body: AdjustmentRequest) -> OperationBody:
    """Corrects a balance, up or down."""
    return await _operate(request, Adjustment(body.tenant_id, body.reference, body.credits, body.reason))


@router.get("/unapplied-receipts", responses=problem_responses(401, 403, 422, 500, 503))
async def get_unapplied_receipts(
    request: Request, _principal: Operator, limit: Limit = 50, cursor: CursorText = None
) -> UnappliedReceiptsBody:
    """Money that came for credits and could not be believed, oldest first; an operator has to look at each."""
    engine: AsyncEngine = request.app.state.worker_engine
    async with engine.begin() as connection:
        rows = await read_unapplied_receipts(connection, after=cursor_of(cursor), limit=limit)
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


@router.post(
    "/unapplied-receipts/{payment_intent}/credit", responses=problem_responses(401, 403, 404, 409, 413, 422, 500, 503)
)
async def post_receipt_credit(
    request: Request, _principal: Operator, payment_intent: PaymentIntentName, body: ReceiptCreditRequest
) -> OperationBody:
    """Credits a receipt, as its PaymentIntent would have been had it been believed: refunds and disputes take back
    their part, those that came before too. Once: the same again answers the first result.

    What is read here never changes: neither what a receipt says, nor that a tenant is known. Who comes first is decided
    under the PaymentIntent's lock.
    """
    engine: AsyncEngine = request.app.state.worker_engine
    async with engine.begin() as connection:
        receipt = await read_receipt(connection, payment_intent)
        tenant = await read_balance(connection, body.tenant_id)
    if receipt is None:
        raise unknown_receipt()
    if tenant is None:  # a credit would open its books: not because of a typing error
        raise unknown_tenant()
    is_claimed = receipt.tenant_id in {"", body.tenant_id}  # what it names is no other tenant's to see
    command = Credit(
        body.tenant_id, payment_intent, Kind.RECHARGE if receipt.attempt else Kind.PURCHASE, body.credits,
        receipt.amount_minor, receipt.currency, body.expires_in_days,
        receipt.purchase if is_claimed else None, receipt.attempt if is_claimed else None, by_operator=True,
    )  # fmt: skip
    return await _operate(request, command)


async def _operate(request: Request, command: Promotion | Adjustment | Credit) -> OperationBody:
    [outcome] = await commit(request, [command])
    if not isinstance(outcome, Posted):
        raise refusal(outcome)
    return OperationBody(
        tenant_id=command.tenant,
        reference=command.payment_intent if isinstance(command, Credit) else command.reference,
        credits=command.credits,
        available=outcome.available_after, balance_version=outcome.version, posted_at=outcome.posted_at,
    )  # fmt: skip


def _tenant_body(row: Row[Any]) -> TenantBody:
    return TenantBody(
        tenant_id=row.tenant_id, overdraft_limit=row.overdraft_limit, available=row.balance - row.held, held=row.held,
        owed=row.owed, receivable=row.receivable, version=row.version,
    )  # fmt: skip
