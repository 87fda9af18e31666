"""`/api/credits/packages`: the packages for sale."""

from fastapi import APIRouter

from payments.api.body import Body
from payments.api.dependencies import AppDependencies, Reader
from payments.api.errors import COMMON_PROBLEMS
from payments.repository import packages
from shared.database import tenant_transaction

router = APIRouter(tags=["credits"])


class PackageBody(Body):
    package_id: str
    name: str
    credits: int
    amount_minor: int
    currency: str
    expires_in_days: int | None


class PackageList(Body):
    packages: list[PackageBody]


@router.get("/api/credits/packages", responses=COMMON_PROBLEMS)
async def get_packages(principal: Reader, dependencies: AppDependencies) -> PackageList:
    async with tenant_transaction(dependencies.workflows.engine, principal.own_tenant) as connection:
        for_sale = await packages.load_active(connection)
    return PackageList(
        packages=[
            PackageBody(
                package_id=each.package_id,
                name=each.name,
                credits=each.credits,
                amount_minor=each.price_minor,
                currency=each.currency,
                expires_in_days=each.expires_in_days,
            )
            for each in for_sale
        ]
    )
