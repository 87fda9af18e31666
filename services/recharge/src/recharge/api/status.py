"""The status of a tenant's recharge."""

from dataclasses import asdict
from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from recharge.api.body import Body
from recharge.api.dependencies import AppDependencies, Reader
from recharge.core.attempts import ENDED
from recharge.core.status import LiftedBy, status_of
from recharge.repository.attempts import attempts_of
from recharge.repository.decisions import decisions_of
from shared.database import tenant_transaction

router = APIRouter()


class Status(Body):
    """Whether a tenant's card would be charged now, and what would change that."""

    state: Literal["off", "waiting", "charging", "paused"] = Field(
        description="`waiting`: on, and nothing has to be done. `paused`: nothing is charged until somebody acts."
    )
    reason: str | None = Field(description="Why no card is charged, as in decisions; null while one is.")
    detail: str | None = Field(description="More about the reason: a decline code, or what is missing.")
    since: datetime | None = Field(description="When that was decided; null before the first decision.")
    lifted_by: list[LiftedBy] = Field(
        description="What would change it, any one of them. Empty where it passes by itself."
    )
    attempt: str | None = Field(description="The attempt that is under way.")


@router.get("/status", summary="Whether a card would be charged now, and what would change that.")
async def status(dependencies: AppDependencies, principal: Reader) -> Status:
    async with tenant_transaction(dependencies.engine, principal.own_tenant) as connection:
        decided = await decisions_of(connection, principal.own_tenant, None, 1)
        attempted = await attempts_of(connection, principal.own_tenant, None, 1)
    under_way = next((each for each in attempted if each.state not in ENDED), None)
    action_required = under_way.action_required if under_way else None
    last = decided[0] if decided else None
    found = status_of(last.outcome, last.reason, last.detail, action_required) if last else status_of(None, None, None)
    since, attempt = last.decided_at if last else None, under_way.attempt if under_way else None
    return Status.model_validate({**asdict(found), "since": since, "attempt": attempt})
