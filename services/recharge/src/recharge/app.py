"""The API process: a tenant reads why it was charged and why not, and gets what it needs to authenticate a charge."""

import asyncio

from fastapi import APIRouter, FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from recharge.api import attempts, client_secrets, decisions, status
from recharge.api.dependencies import Dependencies
from recharge.settings import AppSettings
from recharge.stripe_gateway import StripeGateway, open_stripe_gateway
from recharge.workflows.client_secrets import ANSWERED_WITHIN_S, ClientSecrets
from shared.auth import Authenticator
from shared.database import make_engine, wait_for_database
from shared.http import Readiness, create_http_app
from shared.problems import problem_responses
from shared.runtime import run_api, start_runtime


def create_app(
    settings: AppSettings, readiness: Readiness, *, api_engine: AsyncEngine, gateway: StripeGateway
) -> FastAPI:
    """The API. `api_engine` has the role `recharge_api`."""
    app = create_http_app(
        "Prepaid recharge",
        description="Automatic recharge of saved cards: what was decided and what came of it.",
        readiness=readiness,
        cors_origins=settings.cors_origins,
        authenticator=Authenticator(settings),
    )
    signing_keys = [key.get_secret_value() for key in settings.metadata_signing_keys]
    app.state.dependencies = Dependencies(engine=api_engine, client_secrets=ClientSecrets(gateway, signing_keys))
    api = APIRouter(prefix="/api/recharge", responses=problem_responses(401, 403, 422, 503))
    for noun in (decisions, attempts, status, client_secrets):
        api.include_router(noun.router)
    app.include_router(api)
    return app


async def run(settings: AppSettings, stopping: asyncio.Event) -> None:
    """Serves the API until `stopping`."""
    engine = make_engine(settings.database_url_api.get_secret_value(), application_name="recharge-api", pool_size=8)
    try:
        await wait_for_database(engine, settings.start_timeout_s)
        async with (
            start_runtime(
                "recharge", settings, settings, settings.database_url_worker.get_secret_value(), pool_size=2
            ) as runtime,
            open_stripe_gateway(settings, timeout_s=ANSWERED_WITHIN_S) as gateway,
        ):
            app = create_app(settings, runtime.readiness, api_engine=engine, gateway=gateway)
            app.state.authenticator.start()
            await run_api(stopping, runtime, app, settings)
    finally:
        await engine.dispose()
