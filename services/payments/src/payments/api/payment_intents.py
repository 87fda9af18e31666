"""Buying: `create-payment-intent` begins a purchase, `confirm-payment-intent` pays it with a saved card."""

from dataclasses import asdict
from typing import Self

from fastapi import APIRouter
from pydantic import Field, model_validator

from payments.api.body import AmountMinor, Body, Currency, Name, RequestBody, StripeId
from payments.api.dependencies import AppDependencies, IdempotencyKey, Writer
from payments.api.errors import COMMON_PROBLEMS
from payments.workflows.idempotent_requests import IdempotentRequest
from payments.workflows.purchase_confirmation import CONFIRM_ROUTE, Confirmation, confirm_purchase
from payments.workflows.purchase_creation import CREATE_ROUTE, RequestedPurchase, create_purchase
from shared.money import Money
from shared.problems import problem_responses

router = APIRouter(tags=["stripe"])


class CreatePaymentIntent(RequestBody):
    """Either a package, or an amount; never credits: the server prices."""

    package_id: Name | None = None
    amount_minor: AmountMinor | None = None
    currency: Currency | None = None
    save_card: bool = Field(False, description="Keep the card for later charges, also automatic ones.")
    insist: bool = Field(False, description="Buy, and later confirm, although a recharge is under way.")

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        has_amount = self.amount_minor is not None and self.currency is not None
        has_part_of_amount = self.amount_minor is not None or self.currency is not None
        if (self.package_id is not None) == has_amount or (self.package_id is not None and has_part_of_amount):
            raise ValueError("send either packageId, or amountMinor and currency")
        return self

    @property
    def amount(self) -> Money | None:
        """The amount, where no package is named."""
        if self.amount_minor is None or self.currency is None:
            return None
        return Money(self.amount_minor, self.currency)


class PaymentIntentCreated(Body):
    purchase_id: str
    payment_intent_id: str
    client_secret: str
    amount_minor: int
    currency: str
    credits: int


class ConfirmPaymentIntent(RequestBody):
    purchase_id: Name
    payment_method_id: StripeId
    insist: bool = Field(
        False, description="Pay although a recharge is under way. Not needed where its creation insisted."
    )


class PaymentIntentConfirmed(Body):
    purchase_id: str
    payment_intent_id: str
    status: str = Field(description="Stripe's: succeeded, processing, requires_action.")
    client_secret: str | None = Field(None, description="Only with requires_action: Stripe.js goes on with it.")


@router.post("/api/stripe/create-payment-intent", responses=COMMON_PROBLEMS | problem_responses(400, 404, 409, 429))
async def create_payment_intent(
    principal: Writer, key: IdempotencyKey, body: CreatePaymentIntent, dependencies: AppDependencies
) -> PaymentIntentCreated:
    created = await create_purchase(
        dependencies.workflows,
        # `insist` may differ when the request is repeated.
        IdempotentRequest.of(principal.own_tenant, CREATE_ROUTE, key, body.model_dump(exclude={"insist"})),
        RequestedPurchase(
            package_id=body.package_id,
            amount=body.amount,
            save_card=body.save_card,
            insist=body.insist,
            requested_by=principal.subject,
        ),
        dependencies.metadata_signing_key,
    )
    return PaymentIntentCreated(**asdict(created))


@router.post("/api/stripe/confirm-payment-intent", responses=COMMON_PROBLEMS | problem_responses(400, 402, 404, 409))
async def confirm_payment_intent(
    principal: Writer, key: IdempotencyKey, body: ConfirmPaymentIntent, dependencies: AppDependencies
) -> PaymentIntentConfirmed:
    confirmed = await confirm_purchase(
        dependencies.workflows,
        IdempotentRequest.of(principal.own_tenant, CONFIRM_ROUTE, key, body.model_dump(exclude={"insist"})),
        Confirmation(purchase_id=body.purchase_id, payment_method=body.payment_method_id, insist=body.insist),
    )
    return PaymentIntentConfirmed(**asdict(confirmed))
