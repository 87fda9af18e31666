"""What Stripe and a purchase's row say of each other: creating its PaymentIntent, and writing down how far it has come.

Used by requests and by the sweeper alike, so that either goes on where the other stopped.
"""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from payments import refusals
from payments.core.purchases import (
    UNFINISHED,
    Observation,
    Progress,
    PurchaseState,
    Source,
    is_same_for_recharge,
    observe,
)
from payments.repository import idempotency, profiles, purchases
from payments.repository.idempotency import RequestKey
from payments.repository.purchases import Purchase
from payments.stripe_gateway import StripeBusy, StripeGateway, StripeUnavailable
from shared.database import tenant_transaction
from shared.logs import get_logger
from shared.outbox import Outbox
from shared.stripe_events import PaymentIntentView

log = get_logger()


async def load_purchase(connection: AsyncConnection, tenant: str, purchase_id: str) -> Purchase:
    """The tenant's purchase, or a Problem 404."""
    found = (await purchases.load(connection, [(tenant, purchase_id)])).get((tenant, purchase_id))
    if found is None:
        raise refusals.unknown_purchase()
    return found


async def create_payment_intent(engine: AsyncEngine, stripe: StripeGateway, purchase: Purchase) -> PaymentIntentView:
    """Creates the PaymentIntent of a purchase under its key, unconfirmed. Raises a `StripeProblem`.

    A 5xx is repeated for ever under its key, whether or not something was made: then it is looked for, and if nothing
    was made the next call takes the next key. Two of them could never both be paid: only the noted one's secret is
    ever handed out.
    """
    try:
        return await stripe.create_payment_intent(purchase.create_parameters, purchase.idempotency_key)
    except StripeUnavailable as failure:
        if not failure.is_answered:
            raise
        found = await stripe.find_payment_intent(purchase.stripe_customer, purchase.purchase_id, purchase.created_at)
        if found is not None:
            return found
        async with tenant_transaction(engine, purchase.tenant) as connection:
            await purchases.next_creation_try(connection, purchase)
        raise


async def note_observation(
    engine: AsyncEngine,
    outbox: Outbox,
    purchase: Purchase,
    view: PaymentIntentView,
    source: Source,
    now: datetime,
    request: RequestKey | None = None,
    response: dict[str, Any] | None = None,
) -> None:
    """Writes what Stripe said of a purchase, and the answer to the request that asked, in one transaction.

    Raises a Problem 409 where the answer is about a PaymentIntent that another request has just overtaken.
    """
    key = (purchase.tenant, purchase.purchase_id)
    seen = Observation(source, view.id, view.status, view.decline_code or view.error_code)
    async with outbox.transaction(engine, purchase.tenant) as transaction:
        connection = transaction.connection
        if request is not None and response is not None:
            await idempotency.answer(connection, request, response)
        await profiles.lock(connection, [purchase.tenant])
        before = (await purchases.load(connection, [key]))[key].progress
        after = observe(before, seen, opened_at=purchase.created_at, now=now)
        if request is not None and after.payment_intent != view.id:
            raise refusals.stripe_failed(StripeBusy("another PaymentIntent was noted meanwhile"))
        if after == before:
            return
        await purchases.save_progress(connection, {key: after})
        log.info("purchase_moved", tenant=purchase.tenant, purchase=purchase.purchase_id, state=after.state)
        if not is_same_for_recharge(before, after):
            await profiles.changed(transaction, [purchase.tenant])


async def note_never_made(engine: AsyncEngine, outbox: Outbox, purchase: Purchase) -> None:
    """Cancels a purchase for which Stripe has no PaymentIntent and will have none."""
    key = (purchase.tenant, purchase.purchase_id)
    async with outbox.transaction(engine, purchase.tenant) as transaction:
        await profiles.lock(transaction.connection, [purchase.tenant])
        before = (await purchases.load(transaction.connection, [key]))[key].progress
        if before.payment_intent is not None or before.state not in UNFINISHED:
            return
        canceled = Progress(PurchaseState.CANCELED, None, None, None, before.observed_at, None)
        await purchases.save_progress(transaction.connection, {key: canceled})
        await profiles.changed(transaction, [purchase.tenant])
