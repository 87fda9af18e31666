"""Paying a purchase with a saved card while its owner is present: the only call of this service that takes money."""

from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.purchases import UNFINISHED, PurchaseState, Source
from payments.repository import cards, idempotency, read_models
from payments.repository.idempotency import RequestKey
from payments.repository.purchases import Purchase
from payments.stripe_gateway import CardDeclined, StripeRefused, StripeUnavailable
from payments.workflows.context import WorkflowContext
from payments.workflows.idempotent_requests import IdempotentRequest, hash_of
from payments.workflows.missing_at_stripe import record_missing
from payments.workflows.purchase_progress import (
    StoredResponse,
    cancel_unknown_to_stripe,
    load_purchase,
    record_observation,
)
from payments.workflows.refusals import (
    MissingPaymentMethod,
    PurchaseCanceled,
    PurchaseNotReady,
    RechargeUnderWay,
    UnknownPaymentMethod,
)
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.stripe_events import PaymentIntentView

CONFIRM_ROUTE = "confirm-payment-intent"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Which purchase to pay with which card. `insist`: pay although a recharge is under way."""

    purchase_id: str
    payment_method: str
    insist: bool


@dataclass(frozen=True, slots=True)
class ConfirmedPurchase:
    """What became of a confirmation. Stored as the response to the request.

    `status` is Stripe's; `client_secret` is set with `requires_action` only.
    """

    purchase_id: str
    payment_intent_id: str
    status: str
    client_secret: str | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """One call that confirms a PaymentIntent. `stripe_try` numbers the Stripe keys of the request."""

    request: RequestKey
    stripe_try: int
    purchase: Purchase
    payment_intent: str
    payment_method: str

    @property
    def idempotency_key(self) -> str:
        """Stripe's key for the call."""
        return f"{self.purchase.purchase_id}:confirm:{hash_of([self.request.key])[:40]}:{self.stripe_try}"


_CONFIRMED = TypeAdapter(ConfirmedPurchase)


async def confirm_purchase(
    context: WorkflowContext, request: IdempotentRequest, confirmation: Confirmation
) -> ConfirmedPurchase:
    """Charges a saved card of the tenant while its owner is present. Raises a `Refusal` or a `StripeProblem`.

    While a recharge is under way it raises `RechargeUnderWay`, unless its user insists now or did so when buying.
    """
    async with tenant_transaction(context.engine, request.tenant) as connection:
        purchase = await load_purchase(connection, request.tenant, confirmation.purchase_id)
        card_key = (request.tenant, confirmation.payment_method)
        card = (await cards.load(connection, [card_key])).get(card_key)
        if card is None or not card.is_usable:
            raise UnknownPaymentMethod
        await idempotency.claim(
            connection,
            request.key,
            input_hash=request.input_hash,
            resource_id=purchase.purchase_id,
            now=context.clock(),
        )
        stored = await idempotency.find(connection, request.key)
        assert stored is not None, "it was just claimed"
        request.check_repeats(stored)
        if stored.response is None and not (confirmation.insist or purchase.insisted):
            await _check_recharge(connection, purchase)  # before the commit: a refusal leaves the key free
    if stored.response is not None:
        return _CONFIRMED.validate_python(stored.response)
    payment_intent = purchase.progress.payment_intent
    if purchase.progress.state is PurchaseState.CANCELED:
        raise PurchaseCanceled
    if payment_intent is None:
        raise PurchaseNotReady
    if purchase.progress.state is PurchaseState.SUCCEEDED:
        return ConfirmedPurchase(purchase.purchase_id, payment_intent, "succeeded")
    view = await _confirm(context, _Call(request.key, stored.stripe_try, purchase, payment_intent, card.payment_method))
    await fault_point("payments.confirmed_at_stripe")
    secret = view.client_secret if view.status == "requires_action" else None
    confirmed = ConfirmedPurchase(purchase.purchase_id, view.id, view.status, secret)
    response = StoredResponse(request.key, _CONFIRMED.dump_python(confirmed, mode="json"))
    await record_observation(context, purchase, view, Source.RESPONSE, response)
    return confirmed


async def _check_recharge(connection: AsyncConnection, purchase: Purchase) -> None:
    if purchase.progress.state in UNFINISHED and await read_models.has_attempt_under_way(connection, purchase.tenant):
        raise RechargeUnderWay(may_insist=True)


async def _confirm(context: WorkflowContext, call: _Call) -> PaymentIntentView:
    try:
        return await context.stripe.confirm_payment_intent(
            call.payment_intent, call.payment_method, call.idempotency_key
        )
    except CardDeclined as declined:
        if declined.payment_intent is not None:
            await record_observation(context, call.purchase, declined.payment_intent, Source.RESPONSE)
        raise
    except StripeRefused as refused:  # it may have succeeded in another browser tab
        return await _result_after_failure(context, call, refused)
    except StripeUnavailable as unavailable:
        if not unavailable.is_answered:
            raise
        # Stripe repeats a 5xx under this key, whether or not the payment was made.
        return await _result_after_failure(context, call, unavailable)


async def _result_after_failure(
    context: WorkflowContext, call: _Call, failure: StripeRefused | StripeUnavailable
) -> PaymentIntentView:
    """The PaymentIntent where it was confirmed after all; raises the failure, or what explains it, otherwise."""
    try:
        current = await context.stripe.retrieve_payment_intent(call.payment_intent)
    except StripeRefused as refused:
        if not refused.is_missing:
            raise
        await cancel_unknown_to_stripe(context, call.purchase, call.payment_intent)
        await _check_card_exists(context, call)
        raise PurchaseCanceled from refused
    if current.status in ("succeeded", "processing", "requires_action"):
        return current
    await record_observation(context, call.purchase, current, Source.RETRIEVED)
    if current.status == "canceled":
        raise PurchaseCanceled from failure
    async with tenant_transaction(context.engine, call.request.tenant) as connection:
        await idempotency.increment_stripe_try(connection, call.request, call.stripe_try)
    if isinstance(failure, StripeRefused):
        await _check_card_exists(context, call)
    raise failure


async def _check_card_exists(context: WorkflowContext, call: _Call) -> None:
    """Raises `MissingPaymentMethod` where Stripe no longer has the card, or its customer."""
    missing = await record_missing(context, call.purchase.tenant, call.purchase.stripe_customer, call.payment_method)
    if missing.card:
        raise MissingPaymentMethod
