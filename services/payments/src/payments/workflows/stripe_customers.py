"""Creates the one Stripe customer of a tenant, from its row, before anything else is created for the tenant."""

import asyncio

from payments.repository import customers, profiles
from payments.stripe_gateway import StripeBusy, StripeUnavailable
from payments.workflows.context import WorkflowContext
from shared.database import tenant_transaction
from shared.faults import fault_point

#: How long to wait for another request of the tenant that is just creating the customer.
BUSY_DELAYS_S = (0.2, 0.4, 0.8, 1.6)


async def ensure_stripe_customer(context: WorkflowContext, tenant: str) -> str:
    """The customer's id, committed. After a `StripeProblem` the same call continues from the same row."""
    now = context.clock()
    for delay_s in (*BUSY_DELAYS_S, None):
        async with tenant_transaction(context.engine, tenant) as connection:
            customer = await customers.ensure_row(connection, tenant, _parameters(tenant), now)
        if customer.stripe_customer is not None:
            return customer.stripe_customer
        try:
            stripe_customer = await _create(context, customer)
        except StripeBusy:
            if delay_s is None:
                raise
            await asyncio.sleep(delay_s)
            continue
        await fault_point("payments.customer_created")
        async with context.outbox.transaction(context.engine, tenant) as transaction:
            await profiles.lock(transaction.connection, [tenant])
            if await customers.set_stripe_customer(transaction.connection, customer, stripe_customer):
                await profiles.increment_versions(transaction, [tenant])
                return stripe_customer
    raise StripeBusy("the customer is being made")


async def _create(context: WorkflowContext, customer: customers.Customer) -> str:
    try:
        return await context.stripe.create_customer(customer.create_parameters, customer.idempotency_key)
    except StripeUnavailable as failure:
        if not failure.is_answered:
            raise
        # Stripe repeats a 5xx under its key, whether or not the customer was created.
        found = await context.stripe.find_customer(customer.create_parameters["metadata"], customer.created_at)
        if found is not None:
            return found
        async with tenant_transaction(context.engine, customer.tenant) as connection:
            await customers.next_generation(connection, customer)
        raise


def _parameters(tenant: str) -> dict[str, object]:
    return {"metadata": {"prepaid_tenant": tenant}, "description": f"Prepaid credits of {tenant}"[:350]}
