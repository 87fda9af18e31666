"""Creating a purchase: what happens between a request and Stripe, and in which order.

    claim key, insert purchase ─commit─▶ call Stripe ─▶ record the PaymentIntent and the response ─commit─▶ respond

No transaction is open while Stripe is called. After a crash at any arrow, the same request or the sweeper continues
from the purchase's row, under the same Stripe key.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.pricing import Quote, quote_amount, quote_package
from payments.core.purchases import CREATION_GRACE, KEY_TRUSTED_FOR, UNFINISHED, Progress, PurchaseState, Source
from payments.repository import idempotency, packages, profiles, purchases, read_models
from payments.repository.idempotency import StoredRequest
from payments.repository.purchases import Purchase
from payments.stripe_gateway import StripeRefused
from payments.workflows.context import WorkflowContext
from payments.workflows.idempotent_requests import IdempotentRequest
from payments.workflows.purchase_progress import (
    StoredResponse,
    cancel_never_created,
    cancel_unknown_to_stripe,
    create_payment_intent,
    load_purchase,
    record_observation,
)
from payments.workflows.refusals import PurchaseCanceled, PurchasePaid, RechargeUnderWay, TooManyOpenPurchases
from payments.workflows.stripe_customers import ensure_stripe_customer
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.ids import new_id
from shared.money import Money
from shared.signed_metadata import CreditOrder, sign

#: A tenant that has so many purchases that may still be paid cannot create another one.
UNFINISHED_PURCHASES_MAX = 50
CREATE_ROUTE = "create-payment-intent"


@dataclass(frozen=True, slots=True)
class RequestedPurchase:
    """What a user asks to buy: a package, or an amount. `insist`: buy although a recharge is under way."""

    package_id: str | None
    amount: Money | None
    save_card: bool
    insist: bool
    requested_by: str


@dataclass(frozen=True, slots=True)
class CreatedPurchase:
    """A purchase and its unconfirmed PaymentIntent. Stored as the response to the request."""

    purchase_id: str
    payment_intent_id: str
    client_secret: str
    amount_minor: int
    currency: str
    credits: int


_CREATED = TypeAdapter(CreatedPurchase)


async def create_purchase(
    context: WorkflowContext, request: IdempotentRequest, requested: RequestedPurchase, signing_key: str
) -> CreatedPurchase:
    """Creates a purchase with an unconfirmed PaymentIntent; for the same request always the same one.

    It is paid by `confirm_purchase` or in the browser. Raises a `Refusal`, `NotForSale` or a `StripeProblem`.
    """
    async with tenant_transaction(context.engine, request.tenant) as connection:
        stored = await idempotency.find(connection, request.key)
        quote = await _quote(connection, request.tenant, requested) if stored is None else None
    if stored is None:
        assert quote is not None, "a new request was priced"
        customer = await ensure_stripe_customer(context, request.tenant)
        purchase = _new_purchase(
            request.tenant, requested, quote, customer=customer, signing_key=signing_key, now=context.clock()
        )
        stored = await _insert(context, request, purchase)
    request.check_repeats(stored)
    if stored.response is not None:
        return _CREATED.validate_python(stored.response)
    return await _finish_creation(context, request, stored.resource_id)


async def _quote(connection: AsyncConnection, tenant: str, requested: RequestedPurchase) -> Quote:
    if not requested.insist and await read_models.has_attempt_under_way(connection, tenant):
        raise RechargeUnderWay(may_insist=True)
    await _check_open_purchases(connection, tenant)
    for_sale = await packages.load_active(connection)
    if requested.package_id is not None:
        return quote_package(for_sale, requested.package_id)
    assert requested.amount is not None, "a request names a package or an amount"
    return quote_amount(for_sale, requested.amount)


def _new_purchase(
    tenant: str, requested: RequestedPurchase, quote: Quote, *, customer: str, signing_key: str, now: datetime
) -> Purchase:
    purchase_id = new_id("pur")
    order = CreditOrder(
        tenant=tenant,
        credits=quote.credits,
        amount_minor=quote.price.amount_minor,
        currency=quote.price.currency,
        expires_in_days=quote.expires_in_days,
        purchase=purchase_id,
    )
    parameters: dict[str, Any] = {
        "amount": quote.price.amount_minor,
        "currency": quote.price.currency,
        "customer": customer,
        "metadata": sign(order, signing_key),
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
    }
    if requested.save_card:
        parameters["setup_future_usage"] = "off_session"
    return Purchase(
        tenant=tenant,
        purchase_id=purchase_id,
        package_id=quote.package_id,
        credits=quote.credits,
        amount_minor=quote.price.amount_minor,
        currency=quote.price.currency,
        create_parameters=parameters,
        creation_try=1,
        created_by=requested.requested_by,
        created_at=now,
        insisted=requested.insist,
        progress=Progress(
            state=PurchaseState.CREATED,
            payment_intent=None,
            status=None,
            decline_code=None,
            observed_at=None,
            look_at=now + CREATION_GRACE,
        ),
        state_since=now,
    )


async def _insert(context: WorkflowContext, request: IdempotentRequest, purchase: Purchase) -> StoredRequest:
    """Writes the purchase under its key, or finds the one that another request has just written."""
    async with context.outbox.transaction(context.engine, request.tenant) as transaction:
        connection = transaction.connection
        if await idempotency.claim(
            connection,
            request.key,
            input_hash=request.input_hash,
            resource_id=purchase.purchase_id,
            now=purchase.created_at,
        ):
            await profiles.lock(connection, [request.tenant])
            await _check_open_purchases(connection, request.tenant)  # again: the lock lets nobody else create one now
            await purchases.insert(connection, purchase)
            await profiles.increment_versions(transaction, [request.tenant])
        stored = await idempotency.find(connection, request.key)
    assert stored is not None, "it was claimed by us or by another"
    await fault_point("payments.purchase_committed")
    return stored


async def _finish_creation(context: WorkflowContext, request: IdempotentRequest, purchase_id: str) -> CreatedPurchase:
    async with tenant_transaction(context.engine, request.tenant) as connection:
        purchase = await load_purchase(connection, request.tenant, purchase_id)
    progress = purchase.progress
    if progress.state is PurchaseState.SUCCEEDED:  # there is no stored response: it was paid by another PaymentIntent
        raise PurchasePaid
    is_too_old = context.clock() - purchase.created_at > KEY_TRUSTED_FOR
    if progress.payment_intent is None and (progress.state not in UNFINISHED or is_too_old):
        raise PurchaseCanceled
    try:
        if progress.payment_intent is not None:
            view = await context.stripe.retrieve_payment_intent(progress.payment_intent)
            source = Source.RETRIEVED
        else:
            view = await create_payment_intent(context, purchase)
            source = Source.RESPONSE
    except StripeRefused as refused:
        if progress.payment_intent is None:
            await cancel_never_created(context, purchase)
        elif refused.is_missing:
            await cancel_unknown_to_stripe(context, purchase, progress.payment_intent)
            raise PurchaseCanceled from refused
        raise
    await fault_point("payments.payment_intent_created")
    assert view.client_secret is not None, "Stripe returns the client secret to a secret key"
    created = CreatedPurchase(
        purchase_id=purchase.purchase_id,
        payment_intent_id=view.id,
        client_secret=view.client_secret,
        amount_minor=purchase.amount_minor,
        currency=purchase.currency,
        credits=purchase.credits,
    )
    response = StoredResponse(request.key, _CREATED.dump_python(created, mode="json"))
    await record_observation(context, purchase, view, source, response)
    return created


async def _check_open_purchases(connection: AsyncConnection, tenant: str) -> None:
    if await purchases.count_unfinished(connection, tenant) >= UNFINISHED_PURCHASES_MAX:
        raise TooManyOpenPurchases(UNFINISHED_PURCHASES_MAX)
