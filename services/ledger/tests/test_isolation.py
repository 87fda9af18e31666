"""The API's role reads no rows of another tenant, in any relation of the database."""

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from embedded.tenant_isolation import assert_owner_reads_nothing, assert_tenants_are_isolated
from ledger.jobs.archive import archive_old_transfers
from shared.clock import utc_now
from shared.database import make_engine, tenant_transaction

from .books import Books
from .builders import debit, hold, purchase, refund, unapplied, withdrawn

TENANTS = ("acme", "bravo")


async def fill(books: Books) -> None:
    """Puts rows of both tenants into every table."""
    for tenant in TENANTS:
        await books.post(
            purchase(f"pi_{tenant}", tenant=tenant), debit(tenant=tenant),
            refund(f"re_{tenant}", 100, payment_intent=f"pi_{tenant}"),
            withdrawn(f"dp_{tenant}", 100, payment_intent=f"pi_{tenant}"), unapplied(f"pi_no_{tenant}", tenant=tenant),
            hold(tenant=tenant),
        )  # fmt: skip
    for tenant in TENANTS:  # a tenant's time does not go back: these are others, whose old entries are made theirs
        await books.post(purchase(f"pi_old_{tenant}", tenant=f"old-{tenant}"), now=utc_now() - timedelta(days=500))
    assert await archive_old_transfers(books.engine) == 2
    superuser = make_engine(books.database.superuser_url, application_name="ledger-test-fill", pool_size=1)
    async with superuser.begin() as connection:
        await connection.execute(text("UPDATE transfer_archive SET tenant_id = substr(tenant_id, 5)"))
    await superuser.dispose()
    async with books.engine.begin() as connection:
        for tenant in TENANTS:
            await connection.execute(
                text("INSERT INTO published_state VALUES (:tenant, 'topic', :tenant, 1)"), {"tenant": tenant}
            )


async def test_every_relation_hides_the_rows_of_other_tenants(books: Books) -> None:
    await fill(books)
    readable = await assert_tenants_are_isolated(
        books.database, TENANTS, relations_min=9, without_tenant={"alembic_version": False}
    )
    assert readable == {"balance", "credit_grant", "entry", "hold", "transfer", "transfer_archive"}


async def test_the_api_role_cannot_write(books: Books) -> None:
    await fill(books)
    api_engine = make_engine(books.database.api_url, application_name="ledger-test-api", pool_size=1)
    try:
        for statement in (
            "UPDATE balance SET balance = 1",
            "DELETE FROM transfer",
            "INSERT INTO balance DEFAULT VALUES",
        ):
            with pytest.raises(DBAPIError, match="permission denied"):
                async with tenant_transaction(api_engine, "acme") as connection:
                    await connection.execute(text(statement))
    finally:
        await api_engine.dispose()


async def test_the_worker_role_cannot_change_a_transfer(books: Books) -> None:
    await fill(books)
    for statement in ("UPDATE transfer SET credits = 1", "DELETE FROM transfer", "TRUNCATE transfer"):
        with pytest.raises(DBAPIError, match="permission denied"):
            async with books.engine.begin() as connection:
                await connection.execute(text(statement))


async def test_the_owner_cannot_read_rows(books: Books) -> None:
    await fill(books)
    await assert_owner_reads_nothing(books.database, ["transfer"])
