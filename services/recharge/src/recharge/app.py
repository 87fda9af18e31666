"""The HTTP door: why it charged and why it did not, and what its owner needs to authenticate a charge."""

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Response
from fastapi import Request as HttpRequest
from sqlalchemy.ext.asyncio import AsyncEngine

from recharge.client_secrets import ANSWERED_WITHIN_S, NO_STORE, ClientSecrets
from recharge.core.attempts import ENDED
from recharge.core.status import status_of
from recharge.repository.reading import attempts_of, decisions_of
from recharge.schemas import Attempt, Attempts, ClientSecret, Decision, Decisions, Status
from recharge.settings import AppSettings
from recharge.stripe_gateway import StripeGateway, open_stripe_gateway
from shared.auth import Authenticator, Principal, Scope, requires
from shared.database import make_engine, tenant_transaction, wait_for_database
from shared.http import Readiness, create_http_app
from shared.problems import problem_responses
from shared.runtime import run_api, start_runtime

PAGE_MAX = 100

router = APIRouter(prefix="/api/recharge", responses=problem_responses(401, 403, 422, 503))
Reader = Annotated[Principal, Depends(requires(Scope.BILLING_READ))]
Writer = Annotated[Principal, Depends(requires(Scope.BILLING_WRITE))]
AttemptId = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9_]+$")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


@router.get("/decisions", summary="Why a card was charged, and why it was not; newest first.")
async def decisions(
    request: HttpRequest,
    principal: Reader,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Decisions:
    async with tenant_transaction(request.app.state.api_engine, principal.own_tenant) as connection:
        rows = await decisions_of(connection, principal.own_tenant, cursor, limit)
    return Decisions(
        decisions=[Decision.model_validate(row) for row in rows],
        next_cursor=str(rows[-1].id) if len(rows) == limit else None,
    )


@router.get("/attempts", summary="Attempts to charge a saved card; newest first.")
async def attempts(
    request: HttpRequest,
    principal: Reader,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=64, pattern="^[A-Za-z0-9_]+$")] = None,
) -> Attempts:
    async with tenant_transaction(request.app.state.api_engine, principal.own_tenant) as connection:
        rows = await attempts_of(connection, principal.own_tenant, cursor, limit)
    return Attempts(
        attempts=[Attempt.model_validate(row) for row in rows],
        next_cursor=rows[-1].attempt if len(rows) == limit else None,
    )


@router.get("/status", summary="Whether a card would be charged now, and what would change that.")
async def status(request: HttpRequest, principal: Reader) -> Status:
    async with tenant_transaction(request.app.state.api_engine, principal.own_tenant) as connection:
        decided = await decisions_of(connection, principal.own_tenant, None, 1)
        attempted = await attempts_of(connection, principal.own_tenant, None, 1)
    under_way = next((each for each in attempted if each.state not in ENDED), None)
    action_required = under_way.action_required if under_way else None
    last = decided[0] if decided else None
    found = status_of(last.outcome, last.reason, last.detail, action_required) if last else status_of(None, None, None)
    since, attempt = last.decided_at if last else None, under_way.attempt if under_way else None
    return Status.model_validate({**asdict(found), "since": since, "attempt": attempt})


@router.get(
    "/attempts/{attempt}/client-secret",
    summary="The client secret of a charge that waits for its owner to authenticate it.",
    responses=problem_responses(404, 409),
)
async def client_secret(
    request: HttpRequest, response: Response, principal: Writer, attempt: AttemptId
) -> ClientSecret:
    response.headers.update(NO_STORE)
    client_secrets: ClientSecrets = request.app.state.client_secrets
    return await client_secrets.of(request.app.state.api_engine, principal.own_tenant, attempt)


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
    app.state.api_engine = api_engine
    app.state.client_secrets = ClientSecrets(
        gateway, [key.get_secret_value() for key in settings.metadata_signing_keys]
    )
    app.include_router(router)
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
