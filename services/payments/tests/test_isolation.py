"""The API's role reads and writes only rows of its tenant, in every relation of the database."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.tenant_isolation import assert_owner_reads_nothing, assert_tenants_are_isolated
from embedded.testing import ServiceDatabase
from shared.database import tenant_transaction
from shared.events import EXAMPLES, AttemptChanged, BalanceChanged, EntryPosted

TENANTS = ("acme", "bravo")
Call = Callable[..., Any]

#: Relations without a tenant, and whether the tenant's role may read them.
WITHOUT_TENANT = {"alembic_version": False, "package": True, "payment_method_lock": False}


@pytest.fixture
async def filled(call: Call, buy: Call, save_card: Call, consume: Call, worker_engine: AsyncEngine) -> None:
    """Rows of both tenants in every table, written through the service's API and handlers."""
    settings = {
        "enabled": True,
        "thresholdCredits": 500,
        "amountMinor": 5000,
        "currency": "usd",
        "monthlyCapMinor": 20000,
        "consent": {"textVersion": "2026-01"},
    }
    for tenant in TENANTS:
        await save_card(tenant)
        await buy(tenant, packageId="starter")
        assert (await call(tenant, "PUT", "/api/credits/auto-recharge", settings)).status_code == 200
        asked = await call(tenant, "POST", "/api/credits/auto-recharge/trigger-now", key="k")
        assert asked.status_code == 202, asked.text
        await consume(*(EXAMPLES[kind].model_copy(update={"tenant": tenant})
                     for kind in (AttemptChanged, BalanceChanged, EntryPosted)))  # fmt: skip
        async with worker_engine.begin() as connection:
            await connection.execute(
                text("INSERT INTO published_state VALUES (:tenant, 'topic', :tenant, 1)"), {"tenant": tenant}
            )


async def test_no_relation_shows_a_tenant_anything_of_another(filled: None, database: ServiceDatabase) -> None:
    readable = await assert_tenants_are_isolated(database, TENANTS, relations_min=15, without_tenant=WITHOUT_TENANT)
    assert {"card", "purchase", "idempotency", "consent", "balance", "entry", "attempt"} <= readable


async def test_a_tenant_writes_no_row_of_another(filled: None, api_engine: AsyncEngine) -> None:
    async with tenant_transaction(api_engine, "acme") as connection:
        for statement in (
            "UPDATE purchase SET state = 'canceled' WHERE tenant_id = 'bravo'",
            "UPDATE card SET state = 'detached' WHERE tenant_id = 'bravo'",
            "UPDATE auto_recharge SET enabled = false WHERE tenant_id = 'bravo'",
        ):
            assert (await connection.execute(text(statement))).rowcount == 0
    for statement in (
        "INSERT INTO profile (tenant_id) VALUES ('charlie')",
        "INSERT INTO outbox_mark (tenant_id, topic, key, version) VALUES ('bravo', 't', 'bravo', 99)",
    ):
        with pytest.raises(DBAPIError, match="row-level security"):
            async with tenant_transaction(api_engine, "acme") as connection:
                await connection.execute(text(statement))
    for statement in (
        "UPDATE balance SET available = 1",
        "INSERT INTO card SELECT * FROM card",
        "DELETE FROM purchase",
    ):
        with pytest.raises(DBAPIError, match="permission denied"):
            async with tenant_transaction(api_engine, "acme") as connection:
                await connection.execute(text(statement))


async def test_the_owner_reads_no_tenants_data(filled: None, database: ServiceDatabase) -> None:
    await assert_owner_reads_nothing(database, ["purchase", "outbox_mark"])
