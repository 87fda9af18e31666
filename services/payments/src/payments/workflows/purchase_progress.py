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
from payments.stripe_gateway import StripeBusy, StripeGateway, StripeRefused, StripeUnavailable
from payments.workflows.missing_at_stripe import note_what_is_gone
from payments.workflows.stripe_customers import ensure_stripe_customer
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


async def create_payment_intent(
    engine: AsyncEngine, outbox: Outbox, stripe: StripeGateway, purchase: Purchase, now: datetime
) -> PaymentIntentView:
    """Creates the PaymentIntent of a purchase under its key, unconfirmed. Raises a `StripeProblem`.

    Where Stripe no longer has the customer, it is created for the tenant's next one.
    """
    try:
        return await _create(engine, stripe, purchase)
    except StripeRefused as refused:
        gone = await note_what_is_gone(engine, outbox, stripe, purchase.tenant, purchase.stripe_customer, None, now)
        if not gone.customer:
            raise
        customer = await ensure_stripe_customer(engine, outbox, stripe, purchase.tenant, now)
        async with tenant_transaction(engine, purchase.tenant) as connection:
            moved = await purchases.for_next_customer(connection, purchase, customer)
        if moved is None:
            raise StripeBusy("another request has just gone on with it") from refused
        return await _create(engine, stripe, moved)


async def find_payment_intent(stripe: StripeGateway, purchase: Purchase) -> PaymentIntentView | None:
    """The PaymentIntent of a purchase, if one was made. There is none where its customer is gone: nobody was given its
    secret, so it could not have been paid."""
    try:
        return await stripe.find_payment_intent(purchase.create_parameters, purchase.created_at)
    except StripeUnavailable:
        if await stripe.has_customer(purchase.stripe_customer):
            raise
        return None


async def _create(engine: AsyncEngine, stripe: StripeGateway, purchase: Purchase) -> PaymentIntentView:
    """A 5xx is repeated for ever under its key, whether or not something was made: then it is looked for, and if
    nothing was made the next call takes the next key. Two of them could never both be paid: only the noted one's secret
    is ever handed out."""
    try:
        return await stripe.create_payment_intent(purchase.create_parameters, purchase.idempotency_key)
    except StripeUnavailable as failure:
        if not failure.is_answered:
            raise
        found = await stripe.find_payment_intent(purchase.create_parameters, purchase.created_at)
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


async def note_missing(engine: AsyncEngine, outbox: Outbox, purchase: Purchase, payment_intent: str) -> None:
    """Cancels a purchase whose PaymentIntent Stripe does not know: it is of another account, or of another mode. If it
    is paid there after all, and this is told, `succeeded` wins."""
    key = (purchase.tenant, purchase.purchase_id)
    async with outbox.transaction(engine, purchase.tenant) as transaction:
        await profiles.lock(transaction.connection, [purchase.tenant])
        before = (await purchases.load(transaction.connection, [key]))[key].progress
        if before.payment_intent != payment_intent or before.state not in UNFINISHED:
            return
        canceled = Progress(PurchaseState.CANCELED, payment_intent, before.status, None, before.observed_at, None)
        await purchases.save_progress(transaction.connection, {key: canceled})
        await profiles.changed(transaction, [purchase.tenant])
    log.warning("payment_intent_missing", purchase=purchase.purchase_id, payment_intent=payment_intent)


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
