"""`/api/stripe/config`: what a browser needs before it can pay."""

from fastapi import APIRouter
from pydantic import Field

from payments.api.body import Body
from payments.api.dependencies import AppDependencies
from shared.money import MINIMUM_CHARGE_MINOR
from shared.stripe_events import STRIPE_API_VERSION

router = APIRouter(tags=["stripe"])


class StripeConfig(Body):
    publishable_key: str
    stripe_api_version: str
    ledger_url: str = Field(description="Base address of /api/ledger; empty: the same origin.")
    recharge_url: str = Field(description="Base address of /api/recharge; empty: the same origin.")
    minimum_amount_minor: dict[str, int] = Field(description="The least that Stripe charges, by currency.")


@router.get("/api/stripe/config")
async def get_config(dependencies: AppDependencies) -> StripeConfig:
    return StripeConfig(
        publishable_key=dependencies.stripe_publishable_key,
        stripe_api_version=STRIPE_API_VERSION,
        ledger_url=dependencies.ledger_url,
        recharge_url=dependencies.recharge_url,
        minimum_amount_minor=MINIMUM_CHARGE_MINOR,
    )
