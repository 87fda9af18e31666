"""Decisions: why a card was charged, and why it was not."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from recharge.api.body import Body
from recharge.api.dependencies import AppDependencies, Limit, Reader
from recharge.repository.decisions import decisions_of
from shared.database import tenant_transaction

router = APIRouter()


class Decision(Body):
    """Why a card was charged or not. Written when it differs from the tenant's last one."""

    id: int
    outcome: Literal["charge", "skip"]
    reason: str | None
    detail: str | None = Field(description="More about the reason: a decline code, or what is missing.")
    attempt: str | None
    request: str | None
    package: str | None
    amount_minor: int | None
    currency: str | None
    limited_by_cap: bool | None
    available: int | None
    balance_version: int | None
    profile_version: int
    spent_minor: int
    decided_at: datetime


class Decisions(Body):
    decisions: list[Decision]
    next_cursor: str | None


@router.get("/decisions", summary="Why a card was charged, and why it was not; newest first.")
async def decisions(
    dependencies: AppDependencies,
    principal: Reader,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Decisions:
    async with tenant_transaction(dependencies.engine, principal.own_tenant) as connection:
        rows = await decisions_of(connection, principal.own_tenant, cursor, limit)
    return Decisions(
        decisions=[Decision.model_validate(row) for row in rows],
        next_cursor=str(rows[-1].id) if len(rows) == limit else None,
    )
