"""`/tenants`: a tenant is announced before it buys anything, and has limits."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field
from sqlalchemy import Row

from ledger.api.body import Body, TenantId
from ledger.api.dependencies import AppDependencies, Operator
from ledger.api.errors import unknown_tenant
from ledger.core.accounts import CREDITS_MAX
from ledger.repository.balances import read_balance, set_tenant
from shared.clock import transaction_time
from shared.problems import problem_responses

router = APIRouter()
Tenant = Annotated[TenantId, Path()]


class TenantRequest(Body):
    overdraft_limit: Annotated[int, Field(strict=True, ge=0, le=CREDITS_MAX)] | None = Field(
        None,
        description="How far below zero requests with `overdraft: allow` may go. 0: never, as for a new tenant. "
        "Left out: stays as it is.",
    )


class TenantBody(Body):
    tenant_id: str
    overdraft_limit: int
    available: int
    held: int
    owed: int
    receivable: int
    version: int


@router.put("/tenants/{tenant_id}", responses=problem_responses(401, 403, 413, 422, 500, 503))
async def put_tenant(
    dependencies: AppDependencies, _principal: Operator, tenant_id: Tenant, body: TenantRequest
) -> TenantBody:
    """Announces a tenant, so that it can be given and used credits before it has bought any, and sets its limits."""
    async with dependencies.worker_engine.begin() as connection:
        now = await transaction_time(connection)
        await set_tenant(connection, tenant_id, overdraft_limit=body.overdraft_limit, now=now)
        row = await read_balance(connection, tenant_id)
    assert row is not None, "it was just written"
    return _tenant_body(row)


@router.get("/tenants/{tenant_id}", responses=problem_responses(401, 403, 404, 422, 500, 503))
async def get_tenant(dependencies: AppDependencies, _principal: Operator, tenant_id: Tenant) -> TenantBody:
    """A tenant's limits and balance."""
    async with dependencies.worker_engine.begin() as connection:
        row = await read_balance(connection, tenant_id)
    if row is None:
        raise unknown_tenant()
    return _tenant_body(row)


def _tenant_body(row: Row[Any]) -> TenantBody:
    return TenantBody(
        tenant_id=row.tenant_id, overdraft_limit=row.overdraft_limit, available=row.balance - row.held, held=row.held,
        owed=row.owed, receivable=row.receivable, version=row.version,
    )  # fmt: skip
