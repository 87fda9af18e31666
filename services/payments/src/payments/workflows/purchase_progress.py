"""Creates a purchase's PaymentIntent, and records in the purchase's row what Stripe says of it.

Requests and the sweeper share this module, so that either continues where the other stopped.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.purchases import (
    UNFINISHED,
    Observation,
    Progress,
    Source,
    apply_observation,
    cancel,
    progress_changes_profile,
)
from payments.repository import idempotency, profiles, purchases
from payments.repository.idempotency import RequestKey
from payments.repository.purchases import Purchase
from payments.stripe_gateway import StripeBusy, StripeGateway, StripeRefused, StripeUnavailable
from payments.workflows.context import WorkflowContext
from payments.workflows.missing_at_stripe import record_missing
from payments.workflows.refusals import UnknownPurchase
from payments.workflows.stripe_customers import ensure_stripe_customer
from shared.database import tenant_transaction
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.stripe_events import PaymentIntentView

log = get_logger()


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response to keep under the request's idempotency key."""

    request: RequestKey
    body: dict[str, Any]


async def load_purchase(connection: AsyncConnection, tenant: str, purchase_id: str) -> Purchase:
    """The tenant's purchase; raises `UnknownPurchase`."""
    found = (await purchases.load(connection, [(tenant, purchase_id)])).get((tenant, purchase_id))
    if found is None:
        raise UnknownPurchase
    return found


async def create_payment_intent(context: WorkflowContext, purchase: Purchase) -> PaymentIntentView:
    """Creates the PaymentIntent of a purchase under its key, unconfirmed. Raises a `StripeProblem`.

    Where Stripe no longer has the customer, it is created for the tenant's next one.
    """
    try:
        return await _create(context, purchase)
    except StripeRefused as refused:
        missing = await record_missing(context, purchase.tenant, purchase.stripe_customer, None)
        if not missing.customer:
            raise
        customer = await ensure_stripe_customer(context, purchase.tenant)
        async with tenant_transaction(context.engine, purchase.tenant) as connection:
            changed = await purchases.change_customer(connection, purchase, customer)
        if changed is None:
            raise StripeBusy("another request has just gone on with it") from refused
        return await _create(context, changed)


async def find_payment_intent(stripe: StripeGateway, purchase: Purchase) -> PaymentIntentView | None:
    """The PaymentIntent of a purchase, if one was created.

    There is none where its customer is missing: its client secret was never handed out, so it was never paid.
    """
    try:
        return await stripe.find_payment_intent(purchase.create_parameters, purchase.created_at)
    except StripeUnavailable:
        if await stripe.has_customer(purchase.stripe_customer):
            raise
        return None


async def _create(context: WorkflowContext, purchase: Purchase) -> PaymentIntentView:
    """Creates it, or finds it after a 5xx.

    Stripe repeats a 5xx under its key, whether or not it created something. If a list shows that nothing was created,
    the next call takes the next key. Two PaymentIntents of one purchase could not both be paid: only the client secret
    of the recorded one is handed out.
    """
    try:
        return await context.stripe.create_payment_intent(purchase.create_parameters, purchase.idempotency_key)
    except StripeUnavailable as failure:
        if not failure.is_answered:
            raise
        found = await context.stripe.find_payment_intent(purchase.create_parameters, purchase.created_at)
        if found is not None:
            return found
        async with tenant_transaction(context.engine, purchase.tenant) as connection:
            await purchases.increment_creation_try(connection, purchase)
        raise


async def record_observation(
    context: WorkflowContext,
    purchase: Purchase,
    view: PaymentIntentView,
    source: Source,
    response: StoredResponse | None = None,
) -> None:
    """Records what Stripe said of a purchase, and the response to the request that asked, in one transaction.

    Raises `StripeBusy` where the response is about another PaymentIntent than the one recorded meanwhile.
    """
    now = context.clock()
    key = (purchase.tenant, purchase.purchase_id)
    seen = Observation(source, view.id, view.status, view.decline_code or view.error_code)
    async with context.outbox.transaction(context.engine, purchase.tenant) as transaction:
        connection = transaction.connection
        if response is not None:
            await idempotency.store_response(connection, response.request, response.body)
        await profiles.lock(connection, [purchase.tenant])
        before = (await purchases.load(connection, [key]))[key].progress
        after = apply_observation(before, seen, opened_at=purchase.created_at, now=now)
        if response is not None and after.payment_intent != view.id:
            raise StripeBusy("another PaymentIntent was noted meanwhile")
        if after == before:
            return
        await purchases.save_progress(connection, {key: after})
        log.info("purchase_moved", tenant=purchase.tenant, purchase=purchase.purchase_id, state=after.state)
        if progress_changes_profile(before, after):
            await profiles.increment_versions(transaction, [purchase.tenant])


async def cancel_unknown_to_stripe(context: WorkflowContext, purchase: Purchase, payment_intent: str) -> None:
    """Cancels a purchase whose PaymentIntent Stripe does not know: it belongs to another account or mode.

    If it is paid there and an event says so, `succeeded` wins.
    """
    async with context.outbox.transaction(context.engine, purchase.tenant) as transaction:
        progress = await _lock_progress(transaction, purchase)
        if progress.payment_intent != payment_intent or progress.state not in UNFINISHED:
            return
        await _cancel(transaction, purchase, progress)
    log.warning("payment_intent_missing", purchase=purchase.purchase_id, payment_intent=payment_intent)


async def cancel_never_created(context: WorkflowContext, purchase: Purchase) -> None:
    """Cancels a purchase for which Stripe has no PaymentIntent and will have none."""
    async with context.outbox.transaction(context.engine, purchase.tenant) as transaction:
        progress = await _lock_progress(transaction, purchase)
        if progress.payment_intent is None and progress.state in UNFINISHED:
            await _cancel(transaction, purchase, progress)


async def _lock_progress(transaction: Transaction, purchase: Purchase) -> Progress:
    key = (purchase.tenant, purchase.purchase_id)
    await profiles.lock(transaction.connection, [purchase.tenant])
    return (await purchases.load(transaction.connection, [key]))[key].progress


async def _cancel(transaction: Transaction, purchase: Purchase, progress: Progress) -> None:
    key = (purchase.tenant, purchase.purchase_id)
    await purchases.save_progress(transaction.connection, {key: cancel(progress)})
    await profiles.increment_versions(transaction, [purchase.tenant])
