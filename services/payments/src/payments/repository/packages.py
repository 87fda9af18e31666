"""Packages: the same for every tenant."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.pricing import Package
from shared.events import CreditPackage, DomainEvent


async def load_active(connection: AsyncConnection) -> list[Package]:
    """The packages for sale, cheapest first within a currency."""
    return [_package(row) for row in await connection.execute(_ACTIVE)]


async def load_credit_packages(
    connection: AsyncConnection, package_ids: Sequence[str]
) -> Mapping[str, tuple[int, DomainEvent]]:
    """The current packages, as published to other services."""
    rows = await connection.execute(_BY_ID, {"packages": list(package_ids)})
    return {row.package_id: (row.version, _event(_package(row))) for row in rows}


def _package(row: Any) -> Package:
    return Package(
        package_id=row.package_id,
        version=row.version,
        name=row.name,
        credits=row.credits,
        price_minor=row.price_minor,
        currency=row.currency,
        active=row.active,
        expires_in_days=row.expires_in_days,
    )


def _event(package: Package) -> CreditPackage:
    return CreditPackage(
        package=package.package_id,
        version=package.version,
        name=package.name,
        credits=package.credits,
        price_minor=package.price_minor,
        currency=package.currency,
        active=package.active,
        expires_in_days=package.expires_in_days,
    )


_ACTIVE = text("SELECT * FROM package WHERE active ORDER BY currency, price_minor, package_id")

_BY_ID = text("SELECT * FROM package WHERE package_id = ANY(:packages)")
