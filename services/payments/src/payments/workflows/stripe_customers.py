"""Makes the one Stripe customer of a tenant, from its row, before anything else is made for it."""

import asyncio
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from payments.repository import customers, profiles
from payments.stripe_gateway import StripeBusy, StripeGateway, StripeUnavailable
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.outbox import Outbox

#: How long to wait for another request of the tenant that is just making the customer.
BUSY_DELAYS_S = (0.2, 0.4, 0.8, 1.6)


async def ensure_stripe_customer(
    engine: AsyncEngine, outbox: Outbox, stripe: StripeGateway, tenant: str, now: datetime
) -> str:
    """The customer's id, committed. Raises a `StripeProblem`; then the same call later goes on from the same row."""
    for delay_s in (*BUSY_DELAYS_S, None):
        async with tenant_transaction(engine, tenant) as connection:
            customer = await customers.ensure_row(connection, tenant, _parameters(tenant), now)
        if customer.stripe_customer is not None:
            return customer.stripe_customer
        try:
            stripe_customer = await _create(engine, stripe, customer)
        except StripeBusy:
            if delay_s is None:
                raise
            await asyncio.sleep(delay_s)
            continue
        await fault_point("payments.customer_created")
        async with outbox.transaction(engine, tenant) as transaction:
            await profiles.lock(transaction.connection, [tenant])
            if await customers.set_stripe_customer(transaction.connection, customer, stripe_customer):
                await profiles.changed(transaction, [tenant])
                return stripe_customer
    raise StripeBusy("the customer is being made")


async def _create(engine: AsyncEngine, stripe: StripeGateway, customer: customers.Customer) -> str:
    try:
        return await stripe.create_customer(customer.create_parameters, customer.idempotency_key)
    except StripeUnavailable as failure:
        if not failure.is_answered:
            raise
        # A 5xx is repeated for ever under its key, whether or not the customer was made.
        found = await stripe.find_customer(customer.create_parameters["metadata"], customer.created_at)
        if found is not None:
            return found
        async with tenant_transaction(engine, customer.tenant) as connection:
            await customers.next_generation(connection, customer)
        raise


def _parameters(tenant: str) -> dict[str, object]:
    return {"metadata": {"prepaid_tenant": tenant}, "description": f"Prepaid credits of {tenant}"[:350]}
