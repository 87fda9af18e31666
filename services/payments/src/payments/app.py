"""HTTP door of payments: routes only."""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Query, Response
from sqlalchemy.ext.asyncio import AsyncEngine

from payments.history import read_balance, read_history
from payments.repository import packages
from payments.schemas import (
    AutoRechargeBody,
    BalanceBody,
    ConfirmPaymentIntent,
    CreatePaymentIntent,
    HistoryPage,
    PackageBody,
    PackageList,
    PaymentIntentConfirmed,
    PaymentIntentCreated,
    PaymentMethodList,
    PutAutoRecharge,
    RechargeTriggered,
    SetupIntentCreated,
    StripeConfig,
    StripeId,
)
from payments.settings import AppSettings
from payments.stripe_gateway import open_stripe_gateway
from payments.worker import SERVICE, STATES
from payments.workflows.auto_recharge import Recharging
from payments.workflows.idempotent_requests import Buyer
from payments.workflows.purchase_confirmation import Confirming
from payments.workflows.purchase_creation import Purchasing
from payments.workflows.saved_cards import SavedCards
from shared.auth import Authenticator, Principal, Scope, requires
from shared.database import make_engine, tenant_transaction, wait_for_database
from shared.http import Readiness, create_http_app
from shared.money import MINIMUM_CHARGE_MINOR
from shared.problems import Problem, problem_responses
from shared.runtime import run_api, start_runtime
from shared.stripe_events import STRIPE_API_VERSION

API_POOL_SIZE = 10

IDEMPOTENCY_KEY_LENGTH_MAX = 255
PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200

Reader = Annotated[Principal, Depends(requires(Scope.BILLING_READ))]
Writer = Annotated[Principal, Depends(requires(Scope.BILLING_WRITE))]


def idempotency_key(idempotency_key: Annotated[str | None, Header()] = None) -> str:
    """The header that every POST that costs money needs."""
    if not idempotency_key or len(idempotency_key) > IDEMPOTENCY_KEY_LENGTH_MAX:
        raise Problem(
            400,
            "idempotency_key_required",
            "Send an Idempotency-Key header of 1 to 255 characters: new for each new request, the same for a retry.",
        )
    return idempotency_key


Key = Annotated[str, Depends(idempotency_key)]


async def run(settings: AppSettings, stopping: asyncio.Event) -> None:
    """Serves the API until `stopping`."""
    authenticator = Authenticator(settings)
    url_api = settings.database_url_api.get_secret_value()
    url_worker = settings.database_url_worker.get_secret_value()
    engine = make_engine(url_api, application_name="payments-api", pool_size=API_POOL_SIZE)
    try:
        async with (
            start_runtime(SERVICE, settings, settings, url_worker, states=STATES) as runtime,
            open_stripe_gateway(settings) as stripe,
        ):
            authenticator.start()
            await wait_for_database(engine, settings.start_timeout_s)
            signing_key = settings.metadata_signing_keys[0].get_secret_value()
            api = create_app(
                engine=engine,
                authenticator=authenticator,
                readiness=runtime.readiness,
                purchasing=Purchasing(engine, runtime.outbox, stripe, signing_key, runtime.clock.now),
                confirming=Confirming(engine, runtime.outbox, stripe, runtime.clock.now),
                saved_cards=SavedCards(engine, runtime.outbox, stripe, runtime.clock.now),
                recharging=Recharging(engine, runtime.outbox, runtime.clock.now),
                config=StripeConfig(
                    publishable_key=settings.stripe_publishable_key,
                    stripe_api_version=STRIPE_API_VERSION,
                    ledger_url=settings.ledger_public_url,
                    recharge_url=settings.recharge_public_url,
                    minimum_amount_minor=MINIMUM_CHARGE_MINOR,
                ),
                cors_origins=settings.cors_origins,
            )
            await run_api(stopping, runtime, api, settings)
    finally:
        await engine.dispose()


def create_app(
    *,
    engine: AsyncEngine,
    authenticator: Authenticator,
    readiness: Readiness,
    purchasing: Purchasing,
    confirming: Confirming,
    saved_cards: SavedCards,
    recharging: Recharging,
    config: StripeConfig,
    cors_origins: list[str],
) -> FastAPI:
    """The API that frontends call. `engine` has the API's role: it sees one tenant at a time."""
    app = create_http_app(
        "Prepaid payments",
        description="Packages, purchases, saved cards, automatic recharge, balance and history of a tenant.",
        readiness=readiness,
        cors_origins=cors_origins,
        authenticator=authenticator,
    )
    common = problem_responses(401, 403, 422, 503)

    @app.get("/api/stripe/config", tags=["stripe"])
    async def get_config() -> StripeConfig:
        return config

    @app.get("/api/credits/packages", tags=["credits"], responses=common)
    async def get_packages(principal: Reader) -> PackageList:
        async with tenant_transaction(engine, principal.own_tenant) as connection:
            for_sale = await packages.load_active(connection)
        return PackageList(
            packages=[
                PackageBody(
                    package_id=each.package_id,
                    name=each.name,
                    credits=each.credits,
                    amount_minor=each.price_minor,
                    currency=each.currency,
                    expires_in_days=each.expires_in_days,
                )
                for each in for_sale
            ]
        )

    @app.post(
        "/api/stripe/create-payment-intent", tags=["stripe"], responses=common | problem_responses(400, 404, 409, 429)
    )
    async def create_payment_intent(principal: Writer, key: Key, body: CreatePaymentIntent) -> PaymentIntentCreated:
        return await purchasing.create(_buyer(principal), key, body)

    @app.post(
        "/api/stripe/confirm-payment-intent", tags=["stripe"], responses=common | problem_responses(400, 402, 404, 409)
    )
    async def confirm_payment_intent(principal: Writer, key: Key, body: ConfirmPaymentIntent) -> PaymentIntentConfirmed:
        return await confirming.confirm(_buyer(principal), key, body)

    @app.post("/api/stripe/create-setup-intent", tags=["stripe"], responses=common)
    async def create_setup_intent(principal: Writer) -> SetupIntentCreated:
        return await saved_cards.begin_saving(principal.own_tenant)

    @app.get("/api/stripe/payment-methods", tags=["stripe"], responses=common)
    async def get_payment_methods(principal: Reader) -> PaymentMethodList:
        return await saved_cards.shown(principal.own_tenant)

    @app.delete(
        "/api/stripe/payment-methods/{payment_method_id}",
        tags=["stripe"],
        status_code=204,
        responses=common | problem_responses(404),
    )
    async def delete_payment_method(principal: Writer, payment_method_id: StripeId) -> Response:
        await saved_cards.remove(principal.own_tenant, payment_method_id)
        return Response(status_code=204)

    @app.post(
        "/api/stripe/payment-methods/{payment_method_id}/default",
        tags=["stripe"],
        status_code=204,
        responses=common | problem_responses(404),
    )
    async def make_default(principal: Writer, payment_method_id: StripeId) -> Response:
        await saved_cards.make_default(principal.own_tenant, payment_method_id)
        return Response(status_code=204)

    @app.get("/api/credits/auto-recharge", tags=["credits"], responses=common)
    async def get_auto_recharge(principal: Reader) -> AutoRechargeBody:
        return await recharging.settings(principal.own_tenant)

    @app.put("/api/credits/auto-recharge", tags=["credits"], responses=common)
    async def put_auto_recharge(principal: Writer, body: PutAutoRecharge) -> AutoRechargeBody:
        return await recharging.set(_buyer(principal), body)

    @app.post(
        "/api/credits/auto-recharge/trigger-now",
        tags=["credits"],
        status_code=202,
        responses=common | problem_responses(400, 409),
    )
    async def trigger_now(principal: Writer, key: Key) -> RechargeTriggered:
        return await recharging.trigger(_buyer(principal), key)

    @app.get("/api/credits/balance", tags=["credits"], responses=common)
    async def get_balance(principal: Reader) -> BalanceBody:
        return await read_balance(engine, principal.own_tenant)

    @app.get("/api/credits/history", tags=["credits"], responses=common)
    async def get_history(
        principal: Reader,
        cursor: Annotated[str | None, Query(max_length=1000)] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE_DEFAULT,
    ) -> HistoryPage:
        return await read_history(engine, principal.own_tenant, cursor, limit)

    return app


def _buyer(principal: Principal) -> Buyer:
    return Buyer(principal.own_tenant, principal.subject)
