"""`/api/stripe/payment-methods`: a tenant's saved cards."""

from fastapi import APIRouter, Response

from payments.api.body import Body, StripeId
from payments.api.dependencies import AppDependencies, Reader, Writer
from payments.api.errors import COMMON_PROBLEMS
from payments.core.cards import SavedCard
from payments.repository import cards, profiles
from payments.workflows import saved_cards
from shared.database import tenant_transaction
from shared.problems import problem_responses

router = APIRouter(tags=["stripe"])


class PaymentMethod(Body):
    payment_method_id: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    is_default: bool


class PaymentMethodList(Body):
    payment_methods: list[PaymentMethod]


@router.get("/api/stripe/payment-methods", responses=COMMON_PROBLEMS)
async def get_payment_methods(principal: Reader, dependencies: AppDependencies) -> PaymentMethodList:
    tenant = principal.own_tenant
    async with tenant_transaction(dependencies.workflows.engine, tenant) as connection:
        default = await profiles.load_default(connection, tenant)
        attached = await cards.load_attached(connection, [tenant])
    usable = [_payment_method(card, default) for card in attached.values() if card.is_usable]
    return PaymentMethodList(payment_methods=sorted(usable, key=lambda each: not each.is_default))


@router.delete(
    "/api/stripe/payment-methods/{payment_method_id}",
    status_code=204,
    responses=COMMON_PROBLEMS | problem_responses(404),
)
async def delete_payment_method(
    principal: Writer, payment_method_id: StripeId, dependencies: AppDependencies
) -> Response:
    await saved_cards.remove_card(dependencies.workflows, principal.own_tenant, payment_method_id)
    return Response(status_code=204)


@router.post(
    "/api/stripe/payment-methods/{payment_method_id}/default",
    status_code=204,
    responses=COMMON_PROBLEMS | problem_responses(404),
)
async def make_default(principal: Writer, payment_method_id: StripeId, dependencies: AppDependencies) -> Response:
    await saved_cards.choose_default_card(dependencies.workflows, principal.own_tenant, payment_method_id)
    return Response(status_code=204)


def _payment_method(card: SavedCard, default: str | None) -> PaymentMethod:
    details = card.details
    assert details is not None, "usable cards have details"
    return PaymentMethod(
        payment_method_id=card.payment_method,
        brand=details.brand,
        last4=details.last4,
        exp_month=details.exp_month,
        exp_year=details.exp_year,
        is_default=card.payment_method == default,
    )
