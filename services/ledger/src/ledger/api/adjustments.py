"""`POST /adjustments`: an operator corrects a balance."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from ledger.api.body import Body, Identifier, Purpose, TenantId
from ledger.api.dependencies import AppDependencies, Operator
from ledger.api.operations import OperationBody, post_operation
from ledger.core.accounts import CREDITS_MAX
from ledger.core.commands import Adjustment
from shared.problems import problem_responses

router = APIRouter()


class AdjustmentRequest(Body):
    tenant_id: TenantId
    reference: Identifier
    credits: Annotated[int, Field(strict=True, ge=-CREDITS_MAX, le=CREDITS_MAX)] = Field(
        description="Signed, not 0. What a negative one does not find is owed.",
        json_schema_extra={"not": {"const": 0}},
    )
    reason: Annotated[Purpose, Field(min_length=1)]

    def model_post_init(self, _context: Any) -> None:
        if self.credits == 0:
            raise ValueError("credits must not be 0")


@router.post("/adjustments", responses=problem_responses(401, 403, 404, 409, 413, 422, 500, 503))
async def post_adjustment(
    dependencies: AppDependencies, _principal: Operator, body: AdjustmentRequest
) -> OperationBody:
    """Corrects a balance, up or down."""
    return await post_operation(dependencies, Adjustment(body.tenant_id, body.reference, body.credits, body.reason))
