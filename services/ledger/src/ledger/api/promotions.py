"""`POST /promotions`: credits that an operator gives."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from ledger.api.body import Body, Credits, Identifier, Purpose, TenantId, Time
from ledger.api.dependencies import AppDependencies, Operator
from ledger.api.operations import OperationBody, post_operation
from ledger.core.accounts import PROMOTION_PRIORITY
from ledger.core.commands import Promotion
from shared.problems import problem_responses

router = APIRouter()


class PromotionRequest(Body):
    tenant_id: TenantId
    reference: Identifier = Field(description="Unique for the tenant; the same again answers the first result.")
    credits: Credits
    priority: Annotated[int, Field(strict=True, ge=0, le=1_000)] = Field(
        PROMOTION_PRIORITY, description="Lots of a lower number are spent first; paid ones have 100."
    )
    expires_at: Time | None = None
    reason: Purpose = ""


@router.post("/promotions", responses=problem_responses(401, 403, 404, 409, 413, 422, 500, 503))
async def post_promotion(dependencies: AppDependencies, _principal: Operator, body: PromotionRequest) -> OperationBody:
    """Gives credits, which are spent before those that were paid for unless `priority` says otherwise."""
    command = Promotion(body.tenant_id, body.reference, body.credits, body.priority, body.expires_at, body.reason)
    return await post_operation(dependencies, command)
