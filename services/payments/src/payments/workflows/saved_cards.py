"""A tenant's saved cards: saving, removing, choosing the default. The profile's row says which card is the default."""

from typing import Any

from payments.core.cards import detach, remove
from payments.repository import auto_recharge, cards, profiles
from payments.stripe_gateway import SetupIntentSecret, StripeGateway, StripeProblem, StripeRefused
from payments.workflows.context import WorkflowContext
from payments.workflows.missing_at_stripe import record_missing
from payments.workflows.refusals import TooManyCards, UnknownPaymentMethod
from payments.workflows.stripe_customers import ensure_stripe_customer
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.logs import get_logger

log = get_logger()

CARDS_MAX = 20


async def create_setup_intent(context: WorkflowContext, tenant: str) -> SetupIntentSecret:
    """A SetupIntent for the browser to confirm; a webhook brings the card.

    It is for the tenant's customer, or for the next one where Stripe no longer has that.
    """
    async with tenant_transaction(context.engine, tenant) as connection:
        saved = await cards.load_attached(connection, [tenant])
    if len(saved) >= CARDS_MAX:
        raise TooManyCards(CARDS_MAX)
    customer = await ensure_stripe_customer(context, tenant)
    try:
        return await context.stripe.create_setup_intent(_setup_intent_for(customer))
    except StripeRefused:
        missing = await record_missing(context, tenant, customer, None)
        if not missing.customer:
            raise
    customer = await ensure_stripe_customer(context, tenant)
    return await context.stripe.create_setup_intent(_setup_intent_for(customer))


async def remove_card(context: WorkflowContext, tenant: str, payment_method: str) -> None:
    """From the commit on the card is never charged. Stripe detaches it now, or once it can be reached again."""
    async with context.outbox.transaction(context.engine, tenant) as transaction:
        connection = transaction.connection
        default = (await profiles.lock(connection, [tenant]))[tenant]
        card = (await cards.load(connection, [(tenant, payment_method)])).get((tenant, payment_method))
        if card is None:
            raise UnknownPaymentMethod
        removed = remove(card, now=context.clock())
        if removed != card:
            await cards.update(connection, tenant, removed)
            if default == payment_method:
                await profiles.set_defaults(connection, {tenant: None}, context.clock())
            await profiles.increment_versions(transaction, [tenant])
    await fault_point("payments.removal_committed")
    try:
        await detach_at_stripe(context.stripe, payment_method)
    except StripeProblem as error:
        log.warning("detaching_left_to_the_sweeper", payment_method=payment_method, reason=str(error))
        return
    await record_detached(context, tenant, payment_method)


async def choose_default_card(context: WorkflowContext, tenant: str, payment_method: str) -> None:
    """Makes it the card that automatic recharge charges."""
    async with context.outbox.transaction(context.engine, tenant) as transaction:
        connection = transaction.connection
        default = (await profiles.lock(connection, [tenant]))[tenant]
        card = (await cards.load(connection, [(tenant, payment_method)])).get((tenant, payment_method))
        if card is None or not card.is_usable:
            raise UnknownPaymentMethod
        if default != payment_method:
            await profiles.set_defaults(connection, {tenant: payment_method}, context.clock())
        await auto_recharge.choose_card(connection, tenant, payment_method)
        await profiles.increment_versions(transaction, [tenant])


async def detach_at_stripe(stripe: StripeGateway, payment_method: str) -> None:
    """Returns once no customer at Stripe has the card. Raises a `StripeProblem` where that is not certain."""
    try:
        await stripe.detach_payment_method(payment_method)
    except StripeRefused:
        found = await stripe.retrieve_payment_method(payment_method)
        if found is not None and found.customer is not None:
            raise


async def record_detached(context: WorkflowContext, tenant: str, payment_method: str) -> None:
    """Records that Stripe has detached a removed card."""
    key = (tenant, payment_method)
    async with context.outbox.transaction(context.engine, tenant) as transaction:
        await profiles.lock(transaction.connection, [tenant])
        card = (await cards.load(transaction.connection, [key]))[key]
        if card != detach(card):
            await cards.update(transaction.connection, tenant, detach(card))
            await profiles.increment_versions(transaction, [tenant])


def _setup_intent_for(customer: str) -> dict[str, Any]:
    return {
        "customer": customer,
        "usage": "off_session",
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
    }
