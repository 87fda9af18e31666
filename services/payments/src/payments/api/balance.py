"""`/api/credits/balance`: the balance as the ledger last published it."""

from datetime import datetime

from fastapi import APIRouter

from payments.api.body import Body
from payments.api.dependencies import AppDependencies, Reader
from payments.api.errors import COMMON_PROBLEMS
from payments.repository import read_models
from shared.database import tenant_transaction

router = APIRouter(tags=["credits"])


class BalanceBody(Body):
    """All zero, version 0, where the ledger has not told a balance yet."""

    version: int
    available: int
    held: int
    owed: int
    receivable: int
    usage_by_purpose: dict[str, int]
    changed_at: datetime | None


@router.get("/api/credits/balance", responses=COMMON_PROBLEMS)
async def get_balance(principal: Reader, dependencies: AppDependencies) -> BalanceBody:
    tenant = principal.own_tenant
    async with tenant_transaction(dependencies.workflows.engine, tenant) as connection:
        row = await read_models.load_balance(connection, tenant)
    if row is None:
        return BalanceBody(version=0, available=0, held=0, owed=0, receivable=0, usage_by_purpose={}, changed_at=None)
    return BalanceBody(
        version=row.version,
        available=row.available,
        held=row.held,
        owed=row.owed,
        receivable=row.receivable,
        usage_by_purpose=row.usage_by_purpose,
        changed_at=row.changed_at,
    )
