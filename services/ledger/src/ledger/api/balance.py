"""`GET /balance`: what a tenant has, now or at a time in the past."""

from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, Field

from ledger.api.body import Body, Time
from ledger.api.dependencies import AppDependencies, Reader
from ledger.api.errors import unknown_tenant
from ledger.repository.balance_state import balance_changed
from ledger.repository.balances import read_balance, read_balance_at
from shared.database import tenant_transaction
from shared.problems import problem_responses

router = APIRouter()


class BalanceBody(Body):
    tenant_id: str
    version: int = Field(description="Grows with every entry.")
    available: int = Field(description="Credits that can be spent; negative where the tenant owes.")
    held: int
    owed: int
    receivable: int = Field(description="The part of `owed` that refunds and disputes left.")
    usage_day: date | None
    usage_by_purpose: dict[str, int] = Field(description="Credits used on `usageDay` (UTC), the 20 largest purposes.")
    usage_of_other_purposes: int
    changed_at: datetime


class PastBalanceBody(Body):
    tenant_id: str
    at: AwareDatetime
    version: int = Field(description="Of the last entry posted by then; 0 before the first.")
    available: int
    held: int
    owed: int
    receivable: int


@router.get("/balance", responses=problem_responses(401, 403, 404, 422, 500, 503))
async def get_balance(
    dependencies: AppDependencies,
    principal: Reader,
    at: Annotated[Time | None, Query(description="A time in the past, with its zone.")] = None,
) -> BalanceBody | PastBalanceBody:
    """What the tenant has, and owes; with `at` what it had then."""
    tenant = principal.own_tenant
    async with tenant_transaction(dependencies.api_engine, tenant) as connection:
        row = await read_balance(connection, tenant)
        last = None if row is None or at is None else await read_balance_at(connection, tenant, at)
    if row is None:
        raise unknown_tenant()
    if at is None:
        state = balance_changed(row)
        return BalanceBody(tenant_id=state.tenant, **state.model_dump(exclude={"tenant"}))
    if last is None:
        return PastBalanceBody(tenant_id=tenant, at=at, version=0, available=0, held=0, owed=0, receivable=0)
    return PastBalanceBody(
        tenant_id=tenant, at=at, version=last.version, available=last.available_after,
        held=last.balance_after - last.available_after, owed=last.owed_after, receivable=last.receivable_after,
    )  # fmt: skip
