"""Buying: what happens between a request and Stripe, and in which order.

    claim key, insert purchase ─commit─▶ ask Stripe ─▶ note the PaymentIntent and the answer ─commit─▶ answer

No transaction is open while Stripe is asked. A crash at any arrow leaves a row from which the same request, or the
sweeper, goes on under the same Stripe key.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from payments import refusals
from payments.pricing import NotForSale, Quote, price_amount, price_package
from payments.purchases import (
    CREATION_GRACE,
    KEY_TRUSTED_FOR,
    UNFINISHED,
    Observation,
    Progress,
    PurchaseState,
    Source,
    observe,
)
from payments.repository import cards, idempotency, packages, profiles, purchases, read_models
from payments.repository.idempotency import KnownRequest, RequestKey
from payments.repository.purchases import Purchase
from payments.schemas import ConfirmPaymentIntent, CreatePaymentIntent, PaymentIntentConfirmed, PaymentIntentCreated
from payments.stripe_customers import ensure_stripe_customer
from payments.stripe_gateway import (
    CardDeclined,
    StripeBusy,
    StripeGateway,
    StripeProblem,
    StripeRefused,
    StripeUnavailable,
)
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.ids import new_id
from shared.logs import get_logger
from shared.money import Money
from shared.outbox import Outbox
from shared.signed_metadata import CreditOrder, sign
from shared.stripe_events import PaymentIntentView

log = get_logger()

#: More purchases of one tenant are not begun while these may still be paid.
OPEN_PURCHASES_MAX = 50
CREATE_ROUTE = "create-payment-intent"
CONFIRM_ROUTE = "confirm-payment-intent"


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who buys: the token's tenant and subject."""

    tenant: str
    subject: str


class Purchasing:
    """Creates and confirms purchases. `engine` has the API's role: it sees one tenant at a time."""

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
            purchase = self._new_purchase(buyer, customer, quote, save_card=body.save_card)
            known = await self._begin(request, input_hash, purchase)
        check_same_input(known, input_hash)
        if known.response is not None:
            return PaymentIntentCreated.model_validate(known.response)
        return await self._finish_creation(request, known.resource_id)

    async def confirm(self, buyer: Buyer, key: str, body: ConfirmPaymentIntent) -> PaymentIntentConfirmed:
        """Charges a saved card of the tenant while its owner is there. A decline is a Problem 402."""
        request = RequestKey(buyer.tenant, CONFIRM_ROUTE, key)
        input_hash = hash_of(body.model_dump())
        async with tenant_transaction(self._engine, buyer.tenant) as connection:
            purchase = await self._load(connection, buyer.tenant, body.purchase_id)
            card_key = (buyer.tenant, body.payment_method_id)
            card = (await cards.load(connection, [card_key])).get(card_key)
            if card is None or not card.is_usable:
                raise refusals.unknown_payment_method()
            await idempotency.claim(
                connection, request, input_hash=input_hash, resource_id=purchase.purchase_id, now=self._clock()
            )
            known = await idempotency.find(connection, request)
        assert known is not None, "it was just claimed"
        check_same_input(known, input_hash)
        if known.response is not None:
            return PaymentIntentConfirmed.model_validate(known.response)
        if purchase.progress.state is PurchaseState.CANCELED:
            raise refusals.purchase_canceled()
        if purchase.progress.payment_intent is None:
            raise refusals.purchase_not_ready()
        if purchase.progress.state is PurchaseState.SUCCEEDED:
            return _confirmed(purchase, purchase.progress.payment_intent, "succeeded", None)
        view = await self._ask_to_confirm(
            request, known, purchase, purchase.progress.payment_intent, card.payment_method
        )
        await fault_point("payments.confirmed_at_stripe")
        secret = view.client_secret if view.status == "requires_action" else None
        answer = _confirmed(purchase, view.id, view.status, secret)
        await self._note(purchase, view, Source.ANSWER, request, answer.model_dump(mode="json"))
        return answer

    async def _quote(self, connection: AsyncConnection, tenant: str, body: CreatePaymentIntent) -> Quote:
        if not body.insist and await read_models.has_attempt_under_way(connection, tenant):
            raise refusals.recharge_under_way()
        if await purchases.count_unfinished(connection, tenant) >= OPEN_PURCHASES_MAX:
            raise refusals.too_many_open_purchases(OPEN_PURCHASES_MAX)
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

    def _new_purchase(self, buyer: Buyer, customer: str, quote: Quote, *, save_card: bool) -> Purchase:
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
        if save_card:
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
            progress=Progress(PurchaseState.CREATED, None, None, None, None, look_at=now + CREATION_GRACE),
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
                await purchases.insert(connection, purchase)
                await profiles.changed(transaction, [request.tenant])
            known = await idempotency.find(connection, request)
        assert known is not None, "it was claimed by us or by another"
        await fault_point("payments.purchase_committed")
        return known

    async def _finish_creation(self, request: RequestKey, purchase_id: str) -> PaymentIntentCreated:
        async with tenant_transaction(self._engine, request.tenant) as connection:
            purchase = await self._load(connection, request.tenant, purchase_id)
        is_too_old = self._clock() - purchase.created_at > KEY_TRUSTED_FOR
        if purchase.progress.payment_intent is None and (purchase.progress.state not in UNFINISHED or is_too_old):
            raise refusals.purchase_canceled()
        try:
            if purchase.progress.payment_intent is not None:
                view = await self._stripe.retrieve_payment_intent(purchase.progress.payment_intent)
                source = Source.RETRIEVED
            else:
                view = await create_payment_intent(self._engine, self._stripe, purchase)
                source = Source.ANSWER
        except StripeRefused as error:
            await self._never_made(purchase)
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
        await self._note(purchase, view, source, request, answer.model_dump(mode="json"))
        return answer

    async def _ask_to_confirm(
        self, request: RequestKey, known: KnownRequest, purchase: Purchase, payment_intent: str, payment_method: str
    ) -> PaymentIntentView:
        stripe_key = f"{purchase.purchase_id}:confirm:{hash_of([request.key])[:40]}:{known.stripe_try}"
        try:
            return await self._stripe.confirm_payment_intent(payment_intent, payment_method, stripe_key)
        except CardDeclined as declined:
            if declined.payment_intent is not None:
                await self._note(purchase, declined.payment_intent, Source.ANSWER, None, None)
            raise refusals.stripe_failed(declined) from declined
        except (StripeRefused, StripeUnavailable) as failure:
            # Refused: it may have succeeded in another tab. Answered 5xx: that is repeated under this key, done or not.
            if isinstance(failure, StripeUnavailable) and not failure.is_answered:
                raise refusals.stripe_failed(failure) from failure
            try:
                now_at_stripe = await self._stripe.retrieve_payment_intent(payment_intent)
            except StripeProblem as problem:
                raise refusals.stripe_failed(problem) from problem
            if now_at_stripe.status in ("succeeded", "processing", "requires_action"):
                return now_at_stripe
            await self._note(purchase, now_at_stripe, Source.RETRIEVED, None, None)
            if now_at_stripe.status == "canceled":
                raise refusals.purchase_canceled() from failure
            async with tenant_transaction(self._engine, request.tenant) as connection:
                await idempotency.next_stripe_try(connection, request, known.stripe_try)
            raise refusals.stripe_failed(failure) from failure
        except StripeProblem as problem:
            raise refusals.stripe_failed(problem) from problem

    async def _load(self, connection: AsyncConnection, tenant: str, purchase_id: str) -> Purchase:
        found = (await purchases.load(connection, [(tenant, purchase_id)])).get((tenant, purchase_id))
        if found is None:
            raise refusals.unknown_purchase()
        return found

    async def _note(
        self,
        purchase: Purchase,
        view: PaymentIntentView,
        source: Source,
        request: RequestKey | None,
        response: dict[str, Any] | None,
    ) -> None:
        await note_observation(self._engine, self._outbox, purchase, view, source, self._clock(), request, response)

    async def _never_made(self, purchase: Purchase) -> None:
        await note_never_made(self._engine, self._outbox, purchase)


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
    seen = Observation(source, view.id, view.status, view.decline_code)
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
        if (before.state in UNFINISHED) != (after.state in UNFINISHED):
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


def check_same_input(known: KnownRequest, input_hash: str) -> None:
    """Raises a Problem 409 where the key was used for something else."""
    if known.input_hash != input_hash:
        raise refusals.key_reused()


def hash_of(value: Any) -> str:
    """SHA-256 of a value's JSON, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _confirmed(
    purchase: Purchase, payment_intent: str, status: str, client_secret: str | None
) -> PaymentIntentConfirmed:
    return PaymentIntentConfirmed(
        purchase_id=purchase.purchase_id, payment_intent_id=payment_intent, status=status, client_secret=client_secret
    )
