"""Attempts to charge a saved card."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from recharge.api.body import Body
from recharge.api.dependencies import AppDependencies, Limit, Reader
from recharge.repository.attempts import attempts_of
from shared.database import tenant_transaction

router = APIRouter()


class Attempt(Body):
    """An attempt to charge a saved card."""

    attempt: str
    state: str
    trigger: Literal["automatic", "manual"]
    reason: str | None
    action_required: str | None
    amount_minor: int
    currency: str
    credits: int
    package: str
    limited_by_cap: bool
    payment_intent: str | None
    profile_version: int
    tries: int
    created_at: datetime
    changed_at: datetime


class Attempts(Body):
    attempts: list[Attempt]
    next_cursor: str | None


@router.get("/attempts", summary="Attempts to charge a saved card; newest first.")
async def attempts(
    dependencies: AppDependencies,
    principal: Reader,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=64, pattern="^[A-Za-z0-9_]+$")] = None,
) -> Attempts:
    async with tenant_transaction(dependencies.engine, principal.own_tenant) as connection:
        rows = await attempts_of(connection, principal.own_tenant, cursor, limit)
    return Attempts(
        attempts=[Attempt.model_validate(row) for row in rows],
        next_cursor=rows[-1].attempt if len(rows) == limit else None,
    )
