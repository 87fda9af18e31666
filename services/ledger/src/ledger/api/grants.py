"""`GET /grants`: a tenant's lots of credits."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from ledger.api.body import Body
from ledger.api.dependencies import AppDependencies, Reader
from ledger.api.pages import Limit
from ledger.repository.grants import read_grants
from shared.database import tenant_transaction
from shared.problems import problem_responses

router = APIRouter()


class GrantBody(Body):
    grant_number: int
    door: str
    reference: str
    payment_intent: str | None
    credits: int = Field(description="As granted.")
    remaining: int = Field(description="Free now.")
    held: int = Field(description="In holds now.")
    priority: int = Field(description="The lowest is spent first; then the soonest expiry, then the oldest.")
    expires_at: datetime | None
    created_at: datetime


class GrantsBody(Body):
    grants: list[GrantBody] = Field(description="Newest first.")
    next_before: int | None = Field(description="Ask again with this as `before` for older ones; null at the end.")


@router.get("/grants", responses=problem_responses(401, 403, 422, 500, 503))
async def get_grants(
    dependencies: AppDependencies,
    principal: Reader,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`nextBefore` of a page.")] = None,
    spent: Annotated[bool, Query(description="Also those of which nothing is free any more.")] = False,
) -> GrantsBody:
    """The tenant's lots of credits, newest first."""
    tenant = principal.own_tenant
    async with tenant_transaction(dependencies.api_engine, tenant) as connection:
        rows = await read_grants(connection, tenant, before=before, limit=limit, with_spent=spent)
    return GrantsBody(
        grants=[GrantBody.model_validate(row, from_attributes=True) for row in rows],
        next_before=rows[-1].grant_number if len(rows) == limit else None,
    )
