"""`/holds`: credits reserved for work whose cost is not known yet."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import ConfigDict, Field

from ledger.api.body import Body, Credits, DebitedTenantId, Identifier, Overdraft, Purpose
from ledger.api.dependencies import AppDependencies, Debitor, debited_tenant
from ledger.api.errors import refusal, unknown_hold
from ledger.api.responses import json_response
from ledger.core.commands import Capture, Held, Hold, HoldStatus, Release
from ledger.repository.holds import read_hold
from shared.clock import transaction_time
from shared.database import tenant_transaction
from shared.problems import problem_responses

router = APIRouter()
HOLD_S_MAX = 30 * 24 * 60 * 60
Reference = Annotated[Identifier, Path(description="The hold's.")]


class HoldRequest(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"reference": "chat-42", "credits": 500}})

    reference: Identifier = Field(description="Yours, unique for the tenant among debits and holds.")
    credits: Credits
    expires_in_s: Annotated[int, Field(strict=True, ge=1, le=HOLD_S_MAX)] = 900
    purpose: Purpose = ""
    tenant_id: DebitedTenantId = None


class CaptureRequest(Body):
    credits: Credits
    overdraft: Overdraft = "reject"
    tenant_id: DebitedTenantId = None


class ReleaseRequest(Body):
    tenant_id: DebitedTenantId = None


class HoldBody(Body):
    tenant_id: str
    reference: str
    credits: int
    status: HoldStatus
    captured_credits: int
    expires_at: datetime
    available: int | None = Field(description="Right after the hold was made or ended, whichever this answers.")
    balance_version: int | None


@router.post(
    "/holds", response_model=HoldBody, responses=problem_responses(401, 402, 403, 404, 409, 413, 422, 500, 503)
)
async def post_hold(dependencies: AppDependencies, principal: Debitor, body: HoldRequest) -> Response:
    """Reserves credits for work whose cost is not known yet; they come back by themselves after `expiresInS`."""
    tenant = debited_tenant(principal, body.tenant_id)
    async with dependencies.api_engine.connect() as connection:
        expires_at = await transaction_time(connection) + timedelta(seconds=body.expires_in_s)
    return await _hold(dependencies, Hold(tenant, body.reference, body.credits, body.purpose, expires_at))


@router.post(
    "/holds/{reference:path}/capture",
    response_model=HoldBody,
    responses=problem_responses(401, 402, 403, 404, 409, 413, 422, 500, 503),
)
async def post_capture(
    dependencies: AppDependencies, principal: Debitor, reference: Reference, body: CaptureRequest
) -> Response:
    """Uses any part of a hold, releases the rest, and ends it. More than the hold has is debited like any use."""
    tenant = debited_tenant(principal, body.tenant_id)
    return await _hold(dependencies, Capture(tenant, reference, body.credits, body.overdraft == "allow"))


@router.post(
    "/holds/{reference:path}/release",
    response_model=HoldBody,
    responses=problem_responses(401, 403, 404, 409, 413, 422, 500, 503),
)
async def post_release(
    dependencies: AppDependencies, principal: Debitor, reference: Reference, body: ReleaseRequest
) -> Response:
    """Ends a hold without using anything of it."""
    return await _hold(dependencies, Release(debited_tenant(principal, body.tenant_id), reference))


@router.get("/holds/{reference:path}", responses=problem_responses(401, 403, 404, 422, 500, 503))
async def get_hold(
    dependencies: AppDependencies,
    principal: Debitor,
    reference: Reference,
    tenant_id: Annotated[Identifier | None, Query(alias="tenantId")] = None,
) -> HoldBody:
    """A hold as it is now. `available` is the balance's right after it ended; null while it is open."""
    tenant = debited_tenant(principal, tenant_id)
    async with tenant_transaction(dependencies.api_engine, tenant) as connection:
        row = await read_hold(connection, tenant, reference)
        now = await transaction_time(connection)
    if row is None:
        raise unknown_hold()
    is_over = row.status == HoldStatus.OPEN and row.expires_at <= now
    return HoldBody(
        tenant_id=tenant, reference=reference, credits=row.credits,
        status=HoldStatus.EXPIRED if is_over else HoldStatus(row.status), captured_credits=row.captured,
        expires_at=row.expires_at, available=row.ended_available, balance_version=row.ended_version,
    )  # fmt: skip


async def _hold(dependencies: AppDependencies, command: Hold | Capture | Release) -> Response:
    [outcome] = await dependencies.commit([command])
    if not isinstance(outcome, Held):
        raise refusal(outcome)
    return json_response(
        {
            "tenantId": command.tenant,
            "reference": outcome.reference,
            "credits": outcome.credits,
            "status": outcome.status,
            "capturedCredits": outcome.captured,
            "expiresAt": outcome.expires_at,
            "available": outcome.available_after,
            "balanceVersion": outcome.version,
        }
    )
