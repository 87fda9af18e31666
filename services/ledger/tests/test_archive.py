"""Old transfers move to the archive: none is lost or counted twice, and nobody waits."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.core.commands import NothingPosted, Posted
from ledger.core.retention import archive_before
from ledger.jobs.archive import archive_old_transfers
from shared.auth import Scope
from shared.clock import utc_now

from .books import Books
from .builders import debit, promotion, purchase, refund
from .conftest import MakeHeaders


def test_whole_months_are_archived() -> None:
    assert archive_before(datetime(2026, 11, 24, 10, tzinfo=UTC)) == datetime(2025, 10, 1, tzinfo=UTC)


async def _with_old_books(books: Books, days: int = 600) -> None:
    """A purchase and debits of two tenants in three months long ago, and a debit of today."""
    for tenant in ("acme", "bravo"):
        for month in range(3):
            then = utc_now() - timedelta(days=days - 40 * month)
            await books.post(
                purchase(f"pi_{tenant}_{month}", tenant=tenant), debit(f"old-{month}", 10, tenant=tenant), now=then
            )
        await books.post(debit("today", 5, tenant=tenant), now=utc_now())


async def test_archiving_keeps_the_books_right_and_every_entry_readable(
    books: Books, api: httpx.AsyncClient, headers: MakeHeaders
) -> None:
    await _with_old_books(books)
    assert await archive_old_transfers(books.engine) == 12
    assert await archive_old_transfers(books.engine) == 0
    assert [row.n for row in await books.rows("SELECT count(*) AS n FROM transfer")] == [2]
    await books.assert_right()
    found: list[int] = []
    params: dict[str, str] = {"limit": "2"}
    while "cursor" not in params or params["cursor"]:
        page = await api.get("/api/ledger/entries", params=params, headers=headers("acme", Scope.BILLING_READ))
        found += [entry["version"] for entry in page.json()["entries"]]
        params["cursor"] = page.json()["nextCursor"] or ""
    assert found == [7, 6, 5, 4, 3, 2, 1]


async def test_concurrent_jobs_make_each_partition_once(books: Books) -> None:
    await _with_old_books(books)
    assert sum(await asyncio.gather(*(archive_old_transfers(books.engine) for _ in range(3)))) == 12
    partitions = await books.rows("SELECT inhrelid::regclass::text AS name FROM pg_inherits JOIN pg_class parent "
                                  "ON parent.oid = inhparent WHERE parent.relname = 'transfer_archive'")  # fmt: skip
    months = {f"transfer_archive_{utc_now() - timedelta(days=600 - 40 * month):%Y_%m}" for month in range(3)}
    assert {row.name for row in partitions} == months
    await books.assert_right()


async def test_transfers_whose_references_are_kept_are_not_archived(books: Books) -> None:
    """A reference a year old still answers the first result."""
    await books.post(purchase(), debit("a-year-old", 10), now=utc_now() - timedelta(days=366))
    assert await archive_old_transfers(books.engine) == 0
    [again] = await books.post(debit("a-year-old", 10), now=utc_now())
    assert isinstance(again, Posted)
    assert again.repeated


async def test_an_archived_payment_intent_is_not_credited_again(books: Books) -> None:
    await _with_old_books(books)
    await archive_old_transfers(books.engine)
    assert await books.post(purchase("pi_acme_0")) == [NothingPosted()]
    await books.post(refund(payment_intent="pi_acme_0"))
    await books.assert_right()


async def test_the_database_refuses_to_archive_younger_transfers(books: Books) -> None:
    await books.post(purchase(), now=utc_now() - timedelta(days=399))
    async with books.engine.begin() as connection:
        moved = await connection.scalar(text("SELECT archive_transfers(ARRAY['acme'], now() + interval '1 day', 10)"))
    assert moved == 0
    with pytest.raises(DBAPIError, match="permission denied"):
        async with books.engine.begin() as connection:
            await connection.execute(text("INSERT INTO transfer_archive SELECT * FROM transfer"))


async def test_archiving_does_not_block_and_is_not_blocked(books: Books) -> None:
    await _with_old_books(books)
    async with books.outbox.transaction(books.engine) as transaction:  # a writer that holds the tenants' locks
        await transaction.connection.execute(text("SELECT FROM balance FOR UPDATE"))
        async with books.engine.connect() as reader, reader.begin():  # and a reader in the middle of its work
            await reader.execute(text("SELECT count(*) FROM entry"))
            async with asyncio.timeout(10):
                assert await archive_old_transfers(books.engine) == 12
    await books.assert_right()


async def test_an_archived_reference_may_be_used_again(books: Books) -> None:
    await books.post(purchase(), promotion("spring", 10), now=utc_now() - timedelta(days=600))
    await archive_old_transfers(books.engine)
    await books.post(promotion("spring", 20), now=utc_now())
    assert await books.balance() == (130, 0, 0)
    await books.assert_right()
