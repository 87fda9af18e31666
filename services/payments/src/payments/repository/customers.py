"""The one Stripe customer of each tenant."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant's customer at Stripe. Every try to create it sends the same `create_parameters`."""

    tenant: str
    generation: int
    create_parameters: Mapping[str, Any]
    stripe_customer: str | None
    created_at: datetime

    @property
    def idempotency_key(self) -> str:
        """Stripe's key for creating it. A later generation replaces a customer that was deleted at Stripe.

        The generation comes before the tenant, so that no tenant's id results in the key of another tenant.
        """
        return f"customer{self.generation if self.generation > 1 else ''}:{self.tenant}"


async def ensure_row(
    connection: AsyncConnection, tenant: str, create_parameters: Mapping[str, Any], now: datetime
) -> Customer:
    """The tenant's row; inserted with these parameters where there is none."""
    await connection.execute(_INSERT, {"tenant": tenant, "parameters": json.dumps(dict(create_parameters)), "now": now})
    row = (await connection.execute(_OF_TENANT, {"tenant": tenant})).one()
    return Customer(row.tenant_id, row.generation, row.create_parameters, row.stripe_customer, row.created_at)


async def set_stripe_customer(connection: AsyncConnection, customer: Customer, stripe_customer: str) -> bool:
    """Records the customer's id at Stripe; False where the row has one already, or a later generation."""
    result = await connection.execute(
        _SET, {"tenant": customer.tenant, "generation": customer.generation, "stripe_customer": stripe_customer}
    )
    return result.rowcount == 1


async def next_generation(connection: AsyncConnection, customer: Customer) -> None:
    """Moves on to the next Stripe key, because Stripe repeats a 5xx under this one and created nothing."""
    await connection.execute(_NEXT_GENERATION, {"tenant": customer.tenant, "generation": customer.generation})


async def unlink(connection: AsyncConnection, stripe_customers: Iterable[str]) -> list[str]:
    """Unlinks customers that Stripe does not have any more; returns their tenants."""
    rows = await connection.execute(_UNLINK, {"stripe_customers": sorted(set(stripe_customers))})
    return [row.tenant_id for row in rows]


async def load_current(connection: AsyncConnection, tenant: str) -> str | None:
    """The tenant's customer at Stripe; its profile is locked."""
    return (await connection.execute(_CURRENT, {"tenant": tenant})).scalar_one_or_none()


async def tenants_of(connection: AsyncConnection, stripe_customers: Iterable[str]) -> dict[str, str]:
    """The tenants of these customers; unknown customers are left out."""
    rows = await connection.execute(_TENANTS, {"stripe_customers": sorted(set(stripe_customers))})
    return {row.stripe_customer: row.tenant_id for row in rows}


_INSERT = text("""
    INSERT INTO customer (tenant_id, create_parameters, created_at) VALUES (:tenant, CAST(:parameters AS jsonb), :now)
    ON CONFLICT DO NOTHING
""")

_CURRENT = text("SELECT stripe_customer FROM customer WHERE tenant_id = :tenant")

_OF_TENANT = text("SELECT * FROM customer WHERE tenant_id = :tenant")

_SET = text("""
    UPDATE customer SET stripe_customer = :stripe_customer
    WHERE tenant_id = :tenant AND generation = :generation AND stripe_customer IS NULL
""")

_NEXT_GENERATION = text("""
    UPDATE customer SET generation = generation + 1
    WHERE tenant_id = :tenant AND generation = :generation AND stripe_customer IS NULL
""")

_UNLINK = text("""
    UPDATE customer SET stripe_customer = NULL, generation = generation + 1
    WHERE stripe_customer = ANY(:stripe_customers) RETURNING tenant_id
""")

_TENANTS = text("SELECT tenant_id, stripe_customer FROM customer WHERE stripe_customer = ANY(:stripe_customers)")
