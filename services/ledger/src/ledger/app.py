"""The API process. Reads run as `ledger_api`, within the caller's tenant. Writes run as `ledger_worker`, in groups: a
route authorises each request before it joins one."""

import asyncio
from collections.abc import Sequence

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.api import (
    adjustments,
    balance,
    debits,
    entries,
    grants,
    holds,
    promotions,
    statements,
    tenants,
    unapplied_receipts,
)
from ledger.api.dependencies import Dependencies
from ledger.core.commands import Command, Outcome
from ledger.repository.balance_state import BALANCE_STATE
from ledger.settings import AppSettings
from ledger.workflows.apply_commands import apply_commands
from ledger.workflows.group_commit import GroupCommit
from shared.auth import Authenticator
from shared.database import make_engine
from shared.faults import fault_point
from shared.http import create_http_app
from shared.runtime import Runtime, run_api, start_runtime

API_POOL_SIZE = 8
#: Enough for 1,000 debits with the longest references and purposes.
BODY_BYTES_MAX = 1024 * 1024
#: The busiest first: routes are matched in this order.
ROUTES = (
    debits, holds, balance, entries, grants, statements, tenants, promotions, adjustments, unapplied_receipts,
)  # fmt: skip


async def run(settings: AppSettings, stopping: asyncio.Event) -> None:
    """Serves the API until `stopping`."""
    authenticator = Authenticator(settings)
    authenticator.start()
    api_engine = make_engine(
        settings.database_url_api.get_secret_value(), application_name="ledger-api", pool_size=API_POOL_SIZE
    )
    try:
        async with start_runtime(
            "ledger", settings, settings, settings.database_url_worker.get_secret_value(), states=[BALANCE_STATE]
        ) as runtime:
            app = create_app(runtime, api_engine, authenticator, settings.cors_origins)
            await run_api(stopping, runtime, app, settings)
    finally:
        await api_engine.dispose()


def create_app(
    runtime: Runtime, api_engine: AsyncEngine, authenticator: Authenticator, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """The API. `api_engine` has the role `ledger_api`, the runtime's engine `ledger_worker`."""

    async def commit(commands: Sequence[Command]) -> Sequence[Outcome]:
        async with runtime.outbox.transaction(runtime.engine) as transaction:
            outcomes = await apply_commands(transaction, commands, transaction.now)
            await fault_point("ledger.debits_planned")
        await fault_point("ledger.debits_committed")
        return outcomes

    app = create_http_app(
        "Prepaid ledger",
        description="Balances, entries, statements and uses of prepaid credits.",
        readiness=runtime.readiness,
        cors_origins=list(cors_origins),
        body_bytes_max=BODY_BYTES_MAX,
        authenticator=authenticator,
    )
    app.state.dependencies = Dependencies(api_engine, runtime.engine, GroupCommit(commit))
    for routes in ROUTES:
        app.include_router(routes.router, prefix="/api/ledger")
    return app
