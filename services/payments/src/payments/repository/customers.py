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
    """A tenant's customer at Stripe. `create_parameters` are what it is created from, whenever that succeeds."""

    tenant: str
    generation: int
    create_parameters: Mapping[str, Any]
    stripe_customer: str | None
    created_at: datetime

    @property
    def idempotency_key(self) -> str:
        """Stripe's key for creating it. A later generation replaces a customer that was deleted at Stripe.

        The generation stands before the tenant: an id of any form then makes no other tenant's key.
        """
        return f"customer{self.generation if self.generation > 1 else ''}:{self.tenant}"


async def ensure_row(
    connection: AsyncConnection, tenant: str, create_parameters: Mapping[str, Any], now: datetime
) -> Customer:
    """The tenant's row; made with these parameters where there is none."""
    await connection.execute(_INSERT, {"tenant": tenant, "parameters": json.dumps(dict(create_parameters)), "now": now})
    row = (await connection.execute(_OF_TENANT, {"tenant": tenant})).one()
    return Customer(row.tenant_id, row.generation, row.create_parameters, row.stripe_customer, row.created_at)


async def set_stripe_customer(connection: AsyncConnection, customer: Customer, stripe_customer: str) -> bool:
    """Notes the customer's id at Stripe; False where the row has one, or a later generation."""
    result = await connection.execute(
        _SET, {"tenant": customer.tenant, "generation": customer.generation, "stripe_customer": stripe_customer}
    )
    return result.rowcount == 1


async def next_generation(connection: AsyncConnection, customer: Customer) -> None:
    """Gives up a key under which Stripe has answered for good that nothing was made."""
    await connection.execute(_NEXT_GENERATION, {"tenant": customer.tenant, "generation": customer.generation})


async def forget(connection: AsyncConnection, stripe_customers: Iterable[str]) -> list[str]:
    """Lets go of customers deleted at Stripe; returns their tenants."""
    rows = await connection.execute(_FORGET, {"stripe_customers": sorted(set(stripe_customers))})
    return [row.tenant_id for row in rows]


async def current(connection: AsyncConnection, tenant: str) -> str | None:
    """The tenant's customer at Stripe; its profile is locked."""
    return (await connection.execute(_CURRENT, {"tenant": tenant})).scalar_one_or_none()


async def tenants_of(connection: AsyncConnection, stripe_customers: Iterable[str]) -> dict[str, str]:
    """Whose customers these are; unknown ones are left out."""
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

_FORGET = text("""
    UPDATE customer SET stripe_customer = NULL, generation = generation + 1
    WHERE stripe_customer = ANY(:stripe_customers) RETURNING tenant_id
""")

_TENANTS = text("SELECT tenant_id, stripe_customer FROM customer WHERE stripe_customer = ANY(:stripe_customers)")
