"""`/api/credits/auto-recharge`: the settings with their owner's consent, and a request to recharge now."""

from dataclasses import asdict
from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from payments.api.body import AmountMinor, Body, Credits, Currency, Name, RequestBody, StripeId
from payments.api.dependencies import AppDependencies, IdempotencyKey, Reader, Writer
from payments.api.errors import COMMON_PROBLEMS
from payments.core.recharge_settings import Terms
from payments.repository.auto_recharge import AutoRechargeSettings
from payments.workflows.auto_recharge_settings import RequestedSettings, load_settings, save_settings
from payments.workflows.idempotent_requests import IdempotentRequest
from payments.workflows.recharge_requests import TRIGGER_ROUTE, request_recharge
from shared.money import Money
from shared.problems import problem_responses

router = APIRouter(tags=["credits"])


class ConsentGiven(RequestBody):
    text_version: Name


class PutAutoRecharge(RequestBody):
    enabled: bool
    threshold_credits: Credits
    amount_minor: AmountMinor = Field(description="The most that one recharge may cost.")
    currency: Currency
    monthly_cap_minor: AmountMinor
    consent: ConsentGiven | None = Field(None, description="Needed, and recorded, each time it is enabled.")
    payment_method_id: StripeId | None = Field(
        None, description="The saved card that may be charged; left out, the default card. No other one ever is."
    )


class ConsentShown(Body):
    text_version: str
    given_by: str
    given_at: datetime


class AutoRechargeBody(Body):
    """`enabled` is false and the rest None where nothing was ever set."""

    enabled: bool
    threshold_credits: int | None = None
    amount_minor: int | None = None
    currency: str | None = None
    monthly_cap_minor: int | None = None
    consent: ConsentShown | None = None
    payment_method_id: str | None = Field(
        default=None, description="The card that its owner chose. None: nothing is charged until a card is chosen."
    )


class RechargeTriggered(Body):
    request_id: str
    expires_at: datetime


@router.get("/api/credits/auto-recharge", responses=COMMON_PROBLEMS)
async def get_auto_recharge(principal: Reader, dependencies: AppDependencies) -> AutoRechargeBody:
    return _settings(await load_settings(dependencies.workflows, principal.own_tenant))


@router.put("/api/credits/auto-recharge", responses=COMMON_PROBLEMS)
async def put_auto_recharge(
    principal: Writer, body: PutAutoRecharge, dependencies: AppDependencies
) -> AutoRechargeBody:
    requested = RequestedSettings(
        terms=Terms(
            enabled=body.enabled,
            threshold_credits=body.threshold_credits,
            limit=Money(body.amount_minor, body.currency),
            monthly_cap_minor=body.monthly_cap_minor,
        ),
        consent_text_version=body.consent.text_version if body.consent is not None else None,
        payment_method=body.payment_method_id,
        requested_by=principal.subject,
    )
    return _settings(await save_settings(dependencies.workflows, principal.own_tenant, requested))


@router.post(
    "/api/credits/auto-recharge/trigger-now", status_code=202, responses=COMMON_PROBLEMS | problem_responses(400, 409)
)
async def trigger_now(principal: Writer, key: IdempotencyKey, dependencies: AppDependencies) -> RechargeTriggered:
    request = IdempotentRequest.of(principal.own_tenant, TRIGGER_ROUTE, key, None)
    requested = await request_recharge(dependencies.workflows, request, requested_by=principal.subject)
    return RechargeTriggered(**asdict(requested))


def _settings(settings: AutoRechargeSettings | None) -> AutoRechargeBody:
    if settings is None:
        return AutoRechargeBody(enabled=False)
    terms, consent = settings.terms, settings.consent
    return AutoRechargeBody(
        enabled=terms.enabled,
        threshold_credits=terms.threshold_credits,
        amount_minor=terms.limit.amount_minor,
        currency=terms.limit.currency,
        monthly_cap_minor=terms.monthly_cap_minor,
        payment_method_id=settings.payment_method,
        consent=None
        if consent is None
        else ConsentShown(text_version=consent.text_version, given_by=consent.given_by, given_at=consent.given_at),
    )
