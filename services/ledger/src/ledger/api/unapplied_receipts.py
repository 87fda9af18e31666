"""`/unapplied-receipts`: payments that an operator has to decide about."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from ledger.api.body import Body, Credits, Identifier, TenantId
from ledger.api.dependencies import AppDependencies, Operator
from ledger.api.errors import unknown_receipt, unknown_tenant
from ledger.api.operations import OperationBody, post_operation
from ledger.api.pages import CursorText, Limit, cursor_of
from ledger.core.accounts import Kind
from ledger.core.commands import Credit
from ledger.repository.balances import read_balance
from ledger.repository.cursor import Cursor
from ledger.repository.unapplied_receipts import read_receipt, read_unapplied_receipts
from ledger.stripe_events import EXPIRES_IN_DAYS_MAX
from shared.problems import problem_responses

router = APIRouter()
PaymentIntentName = Annotated[Identifier, Path(description="Stripe's id of it: `pi_…`.")]


class UnappliedReceiptBody(Body):
    payment_intent: str
    claimed_tenant_id: str | None
    amount_minor: int
    currency: str
    reason: str
    purchase: str | None
    attempt: str | None
    received_at: datetime


class UnappliedReceiptsBody(Body):
    unapplied_receipts: list[UnappliedReceiptBody]
    next_cursor: str | None


class ReceiptCreditRequest(Body):
    tenant_id: TenantId = Field(description="Whose money it is; has to be known to the ledger.")
    credits: Credits = Field(description="What the whole amount buys, whatever has been refunded of it.")
    expires_in_days: Annotated[int, Field(strict=True, gt=0, le=EXPIRES_IN_DAYS_MAX)] | None = Field(
        None, description="Null: never. The first request decides; a repetition is not compared by it."
    )


@router.get("/unapplied-receipts", responses=problem_responses(401, 403, 422, 500, 503))
async def get_unapplied_receipts(
    dependencies: AppDependencies, _principal: Operator, limit: Limit = 50, cursor: CursorText = None
) -> UnappliedReceiptsBody:
    """Money that came for credits and could not be believed, oldest first; an operator has to look at each."""
    async with dependencies.worker_engine.begin() as connection:
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
    dependencies: AppDependencies, _principal: Operator, payment_intent: PaymentIntentName, body: ReceiptCreditRequest
) -> OperationBody:
    """Credits a receipt, as its PaymentIntent would have been had it been believed: refunds and disputes take back
    their part, those that came before too. Once: the same again answers the first result.

    What is read here never changes: neither what a receipt says, nor that a tenant is known. Who comes first is decided
    under the PaymentIntent's lock.
    """
    async with dependencies.worker_engine.begin() as connection:
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
    return await post_operation(dependencies, command)
