"""Beginning a purchase: what happens between a request and Stripe, and in which order.

    claim key, insert purchase ─commit─▶ ask Stripe ─▶ note the PaymentIntent and the answer ─commit─▶ answer

No transaction is open while Stripe is asked. A crash at any arrow leaves a row from which the same request, or the
sweeper, goes on under the same Stripe key.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from payments import refusals
from payments.core.pricing import NotForSale, Quote, price_amount, price_package
from payments.core.purchases import CREATION_GRACE, KEY_TRUSTED_FOR, UNFINISHED, Progress, PurchaseState, Source
from payments.repository import idempotency, packages, profiles, purchases, read_models
from payments.repository.idempotency import KnownRequest, RequestKey
from payments.repository.purchases import Purchase
from payments.schemas import CreatePaymentIntent, PaymentIntentCreated
from payments.stripe_gateway import StripeGateway, StripeProblem, StripeRefused
from payments.workflows.idempotent_requests import Buyer, check_same_input, hash_of
from payments.workflows.purchase_progress import (
    create_payment_intent,
    load_purchase,
    note_missing,
    note_never_made,
    note_observation,
)
from payments.workflows.stripe_customers import ensure_stripe_customer
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.ids import new_id
from shared.money import Money
from shared.outbox import Outbox
from shared.signed_metadata import CreditOrder, sign

#: More purchases of one tenant are not begun while these may still be paid.
OPEN_PURCHASES_MAX = 50
CREATE_ROUTE = "create-payment-intent"


class Purchasing:
    """Creates purchases, unconfirmed; they are paid by `payments.workflows.purchase_confirmation` or in the browser.

    `engine` has the API's role: it sees one tenant at a time.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        outbox: Outbox,
        stripe: StripeGateway,
        signing_key: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._stripe = stripe
        self._signing_key = signing_key
        self._clock = clock

    async def create(self, buyer: Buyer, key: str, body: CreatePaymentIntent) -> PaymentIntentCreated:
        """An unconfirmed PaymentIntent for what is bought; for the same key and body always the same one."""
        request = RequestKey(buyer.tenant, CREATE_ROUTE, key)
        input_hash = hash_of(body.model_dump(exclude={"insist"}))
        async with tenant_transaction(self._engine, buyer.tenant) as connection:
            known = await idempotency.find(connection, request)
            quote = await self._quote(connection, buyer.tenant, body) if known is None else None
        if known is None:
            assert quote is not None, "a new request was priced"
            customer = await self._customer(buyer.tenant)
            purchase = self._new_purchase(buyer, customer, quote, body)
            known = await self._begin(request, input_hash, purchase)
        check_same_input(known, input_hash)
        if known.response is not None:
            return PaymentIntentCreated.model_validate(known.response)
        return await self._finish_creation(request, known.resource_id)

    async def _quote(self, connection: AsyncConnection, tenant: str, body: CreatePaymentIntent) -> Quote:
        if not body.insist and await read_models.has_attempt_under_way(connection, tenant):
            raise refusals.recharge_under_way()
        await _check_open_purchases(connection, tenant)
        for_sale = await packages.load_active(connection)
        try:
            if body.package_id is not None:
                return price_package(for_sale, body.package_id)
            assert body.amount_minor is not None and body.currency is not None, "checked by the schema"
            return price_amount(for_sale, Money(body.amount_minor, body.currency))
        except NotForSale as error:
            raise refusals.not_for_sale(error) from error

    async def _customer(self, tenant: str) -> str:
        try:
            return await ensure_stripe_customer(self._engine, self._outbox, self._stripe, tenant, self._clock())
        except StripeProblem as error:
            raise refusals.stripe_failed(error) from error

    def _new_purchase(self, buyer: Buyer, customer: str, quote: Quote, body: CreatePaymentIntent) -> Purchase:
        now = self._clock()
        purchase_id = new_id("pur")
        order = CreditOrder(
            tenant=buyer.tenant,
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
            "metadata": sign(order, self._signing_key),
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
        if body.save_card:
            parameters["setup_future_usage"] = "off_session"
        return Purchase(
            tenant=buyer.tenant,
            purchase_id=purchase_id,
            package_id=quote.package_id,
            credits=quote.credits,
            amount_minor=quote.price.amount_minor,
            currency=quote.price.currency,
            create_parameters=parameters,
            creation_try=1,
            created_by=buyer.subject,
            created_at=now,
            insisted=body.insist,
            progress=Progress(PurchaseState.CREATED, None, None, None, None, look_at=now + CREATION_GRACE),
            state_since=now,
        )

    async def _begin(self, request: RequestKey, input_hash: str, purchase: Purchase) -> KnownRequest:
        """Writes the purchase under its key, or finds the one that another request has just written."""
        async with self._outbox.transaction(self._engine, request.tenant) as transaction:
            connection = transaction.connection
            if await idempotency.claim(
                connection,
                request,
                input_hash=input_hash,
                resource_id=purchase.purchase_id,
                now=purchase.created_at,
            ):
                await profiles.lock(connection, [request.tenant])
                await _check_open_purchases(connection, request.tenant)  # again: nobody else begins one now
                await purchases.insert(connection, purchase)
                await profiles.changed(transaction, [request.tenant])
            known = await idempotency.find(connection, request)
        assert known is not None, "it was claimed by us or by another"
        await fault_point("payments.purchase_committed")
        return known

    async def _finish_creation(self, request: RequestKey, purchase_id: str) -> PaymentIntentCreated:
        async with tenant_transaction(self._engine, request.tenant) as connection:
            purchase = await load_purchase(connection, request.tenant, purchase_id)
        if purchase.progress.state is PurchaseState.SUCCEEDED:  # without an answer: it was paid by a copy
            raise refusals.purchase_paid()
        is_too_old = self._clock() - purchase.created_at > KEY_TRUSTED_FOR
        if purchase.progress.payment_intent is None and (purchase.progress.state not in UNFINISHED or is_too_old):
            raise refusals.purchase_canceled()
        payment_intent = purchase.progress.payment_intent
        try:
            if payment_intent is not None:
                view = await self._stripe.retrieve_payment_intent(payment_intent)
                source = Source.RETRIEVED
            else:
                view = await create_payment_intent(self._engine, self._outbox, self._stripe, purchase, self._clock())
                source = Source.ANSWER
        except StripeRefused as error:
            if payment_intent is None:
                await note_never_made(self._engine, self._outbox, purchase)
            elif error.is_missing:
                await note_missing(self._engine, self._outbox, purchase, payment_intent)
                raise refusals.purchase_canceled() from error
            raise refusals.stripe_failed(error) from error
        except StripeProblem as error:
            raise refusals.stripe_failed(error) from error
        await fault_point("payments.payment_intent_created")
        assert view.client_secret is not None, "secret keys are shown client secrets"
        answer = PaymentIntentCreated(
            purchase_id=purchase.purchase_id,
            payment_intent_id=view.id,
            client_secret=view.client_secret,
            amount_minor=purchase.amount_minor,
            currency=purchase.currency,
            credits=purchase.credits,
        )
        response = answer.model_dump(mode="json")
        await note_observation(self._engine, self._outbox, purchase, view, source, self._clock(), request, response)
        return answer


async def _check_open_purchases(connection: AsyncConnection, tenant: str) -> None:
    if await purchases.count_unfinished(connection, tenant) >= OPEN_PURCHASES_MAX:
        raise refusals.too_many_open_purchases(OPEN_PURCHASES_MAX)
