"""Serves payments' HTTP API: what the routes of `payments.api` work with."""

import asyncio
from collections.abc import Sequence

from fastapi import FastAPI

import payments.metrics  # noqa: F401  # pyright: ignore[reportUnusedImport]  # registers them
from payments.api import (
    auto_recharge,
    balance,
    config,
    history,
    packages,
    payment_intents,
    payment_methods,
    setup_intents,
)
from payments.api.dependencies import Dependencies
from payments.api.errors import install_error_handlers
from payments.repository.published_states import PUBLISHED_STATES
from payments.settings import AppSettings
from payments.stripe_gateway import open_stripe_gateway
from payments.workflows.context import WorkflowContext
from shared.auth import Authenticator
from shared.database import make_engine, wait_for_database
from shared.http import Readiness, create_http_app
from shared.runtime import run_api, start_runtime

API_POOL_SIZE = 10


async def run(settings: AppSettings, stopping: asyncio.Event) -> None:
    """Serves the API until `stopping`."""
    authenticator = Authenticator(settings)
    url_api = settings.database_url_api.get_secret_value()
    url_worker = settings.database_url_worker.get_secret_value()
    engine = make_engine(url_api, application_name="payments-api", pool_size=API_POOL_SIZE)
    try:
        async with (
            start_runtime("payments", settings, settings, url_worker, states=PUBLISHED_STATES) as runtime,
            open_stripe_gateway(settings) as stripe,
        ):
            authenticator.start()
            await wait_for_database(engine, settings.start_timeout_s)
            dependencies = Dependencies(
                workflows=WorkflowContext(engine, runtime.outbox, stripe, runtime.clock.now),
                metadata_signing_key=settings.metadata_signing_keys[0].get_secret_value(),
                stripe_publishable_key=settings.stripe_publishable_key,
                ledger_url=settings.ledger_public_url,
                recharge_url=settings.recharge_public_url,
            )
            api = create_app(dependencies, authenticator, runtime.readiness, settings.cors_origins)
            await run_api(stopping, runtime, api, settings)
    finally:
        await engine.dispose()


def create_app(
    dependencies: Dependencies, authenticator: Authenticator, readiness: Readiness, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """The API that frontends call."""
    app = create_http_app(
        "Prepaid payments",
        description="Packages, purchases, saved cards, automatic recharge, balance and history of a tenant.",
        readiness=readiness,
        cors_origins=list(cors_origins),
        authenticator=authenticator,
    )
    app.state.dependencies = dependencies
    install_error_handlers(app)
    for noun in (
        config,
        packages,
        payment_intents,
        setup_intents,
        payment_methods,
        auto_recharge,
        balance,
        history,
    ):
        app.include_router(noun.router)
    return app
