"""Paying a purchase with a saved card while its owner is there: the only call of this service that takes money."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from payments import refusals
from payments.core.purchases import UNFINISHED, PurchaseState, Source
from payments.repository import cards, idempotency, read_models
from payments.repository.idempotency import KnownRequest, RequestKey
from payments.repository.purchases import Purchase
from payments.schemas import ConfirmPaymentIntent, PaymentIntentConfirmed
from payments.stripe_gateway import CardDeclined, StripeGateway, StripeProblem, StripeRefused, StripeUnavailable
from payments.workflows.idempotent_requests import Buyer, check_same_input, hash_of
from payments.workflows.missing_at_stripe import note_what_is_gone
from payments.workflows.purchase_progress import load_purchase, note_missing, note_observation
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.outbox import Outbox
from shared.stripe_events import PaymentIntentView

CONFIRM_ROUTE = "confirm-payment-intent"


class Confirming:
    """`engine` has the API's role: it sees one tenant at a time."""

    def __init__(
        self, engine: AsyncEngine, outbox: Outbox, stripe: StripeGateway, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._stripe = stripe
        self._clock = clock

    async def confirm(self, buyer: Buyer, key: str, body: ConfirmPaymentIntent) -> PaymentIntentConfirmed:
        """Charges a saved card of the tenant while its owner is there. A decline is a Problem 402.

        While a recharge is under way it is a Problem 409, unless the buyer insists now or did so when buying.
        """
        request = RequestKey(buyer.tenant, CONFIRM_ROUTE, key)
        input_hash = hash_of(body.model_dump(exclude={"insist"}))
        async with tenant_transaction(self._engine, buyer.tenant) as connection:
            purchase = await load_purchase(connection, buyer.tenant, body.purchase_id)
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
            if known.response is None and not (body.insist or purchase.insisted):
                await _check_recharge(connection, purchase)  # before the commit: a refusal leaves the key free
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

    async def _ask_to_confirm(
        self, request: RequestKey, known: KnownRequest, purchase: Purchase, payment_intent: str, payment_method: str
    ) -> PaymentIntentView:
        stripe_key = f"{purchase.purchase_id}:confirm:{hash_of([request.key])[:40]}:{known.stripe_try}"
        try:
            return await self._stripe.confirm_payment_intent(payment_intent, payment_method, stripe_key)
        except CardDeclined as declined:
            if declined.payment_intent is not None:
                await self._note(purchase, declined.payment_intent, Source.ANSWER)
            raise refusals.stripe_failed(declined) from declined
        except (StripeRefused, StripeUnavailable) as failure:
            # Refused: it may have succeeded in another tab. Answered 5xx: that is repeated under this key, done or not.
            if isinstance(failure, StripeUnavailable) and not failure.is_answered:
                raise refusals.stripe_failed(failure) from failure
            try:
                now_at_stripe = await self._stripe.retrieve_payment_intent(payment_intent)
            except StripeProblem as problem:
                if isinstance(problem, StripeRefused) and problem.is_missing:
                    await note_missing(self._engine, self._outbox, purchase, payment_intent)
                    await self._refuse_if_gone(purchase, payment_method)
                    raise refusals.purchase_canceled() from problem
                raise refusals.stripe_failed(problem) from problem
            if now_at_stripe.status in ("succeeded", "processing", "requires_action"):
                return now_at_stripe
            await self._note(purchase, now_at_stripe, Source.RETRIEVED)
            if now_at_stripe.status == "canceled":
                raise refusals.purchase_canceled() from failure
            async with tenant_transaction(self._engine, request.tenant) as connection:
                await idempotency.next_stripe_try(connection, request, known.stripe_try)
            if isinstance(failure, StripeRefused):
                await self._refuse_if_gone(purchase, payment_method)
            raise refusals.stripe_failed(failure) from failure
        except StripeProblem as problem:
            raise refusals.stripe_failed(problem) from problem

    async def _refuse_if_gone(self, purchase: Purchase, payment_method: str) -> None:
        """Raises a Problem 409 where Stripe no longer has the card, or its customer."""
        try:
            gone = await note_what_is_gone(
                self._engine, self._outbox, self._stripe, purchase.tenant, purchase.stripe_customer, payment_method,
                self._clock(),
            )  # fmt: skip
        except StripeProblem as problem:
            raise refusals.stripe_failed(problem) from problem
        if gone.card:
            raise refusals.card_gone()

    async def _note(
        self,
        purchase: Purchase,
        view: PaymentIntentView,
        source: Source,
        request: RequestKey | None = None,
        response: dict[str, Any] | None = None,
    ) -> None:
        await note_observation(self._engine, self._outbox, purchase, view, source, self._clock(), request, response)


async def _check_recharge(connection: AsyncConnection, purchase: Purchase) -> None:
    if purchase.progress.state in UNFINISHED and await read_models.has_attempt_under_way(connection, purchase.tenant):
        raise refusals.recharge_under_way()


def _confirmed(
    purchase: Purchase, payment_intent: str, status: str, client_secret: str | None
) -> PaymentIntentConfirmed:
    return PaymentIntentConfirmed(
        purchase_id=purchase.purchase_id, payment_intent_id=payment_intent, status=status, client_secret=client_secret
    )
