"""Every statement that runs for each batch or page finds its rows by an index, in large tables."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Select, select, text
from sqlalchemy.dialects import postgresql

from ledger.core.accounts import Kind
from ledger.repository import sql
from ledger.repository.balances import balance_at_query
from ledger.repository.cursor import Cursor
from ledger.repository.due import due_tenants_query
from ledger.repository.entries import EntryFilter, entries_query
from ledger.repository.grants import grants_query
from ledger.repository.payment_intents import books_since_query, due_look_ups_query, payments_query
from ledger.repository.tables import balance, transfer
from ledger.repository.unapplied_receipts import receipt_query, unapplied_receipts_query
from shared.database import make_engine

from .books import Books
from .builders import NOW, debit, purchase

ALL = EntryFilter()
TENANTS = 10_000
TRANSFERS_OF_EACH = 100  # a million in all

#: How each index of `transfer` is dropped, and made again as it was.
INDEXES = """
    SELECT coalesce('ALTER TABLE transfer DROP CONSTRAINT ' || conname, 'DROP INDEX ' || indexrelid::regclass) AS drop,
           coalesce('ALTER TABLE transfer ADD CONSTRAINT ' || conname || ' ' || pg_get_constraintdef(pg_constraint.oid),
                    pg_get_indexdef(indexrelid)) AS make
    FROM pg_index LEFT JOIN pg_constraint ON conindid = indexrelid WHERE indrelid = 'transfer'::regclass
"""
FILL_TRANSFER = f"""INSERT INTO transfer
        SELECT 't' || n, 'product', 'job-' || v, '\\x00', 'usage', 'available', 'used', 1, v, 0, 0, 0, 0, '{{}}',
               '{{}}', now() + v * interval '1 second', NULL, NULL, NULL, NULL, NULL, NULL, NULL, false
        FROM generate_series(1, {TENANTS}) n, generate_series(1, {TRANSFERS_OF_EACH}) v"""
FILL = [
    f"""INSERT INTO balance SELECT 't' || n, 20, 20, 0, 0, 0, 10, NULL, '{{}}', 0, now(), 0
        FROM generate_series(1, {TENANTS}) n""",
    f"""INSERT INTO credit_grant
        SELECT 't' || n, g, 'stripe', 'pi_' || n || '_' || g, NULL, 10, 0, 100,
               CASE WHEN g = 10 THEN now() + n * interval '1 hour' END, true, now(), 0
        FROM generate_series(1, {TENANTS}) n, generate_series(1, 10) g""",
    "UPDATE credit_grant SET remaining = 5, spent = false WHERE grant_number = 10",
    f"""INSERT INTO payment_intent (payment_intent, tenant_id, first_seen_at)
        SELECT 'pi_' || n, CASE WHEN n % 50 > 0 THEN 't' || n END, now() FROM generate_series(1, {TENANTS * 5}) n""",
    f"""INSERT INTO unapplied_receipt
        SELECT 't' || n, 'pi_' || n, 1, 'usd', 'x', NULL, NULL, now(), CASE WHEN n % 50 > 0 THEN now() END
        FROM generate_series(1, {TENANTS * 5}) n""",
    f"""INSERT INTO hold
        SELECT 't' || n, 'hold-' || h, 5, '', CASE WHEN h < 10 THEN 'captured' ELSE 'open' END, 0, '{{10}}', '{{5}}',
               now() + n * interval '1 hour', now(), CASE WHEN h < 10 THEN now() END
        FROM generate_series(1, {TENANTS}) n, generate_series(1, 10) h""",
    "ANALYZE",
]


def compiled(query: Select[Any]) -> str:
    return str(query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))


def array(*values: str | int) -> str:
    return "ARRAY[" + ", ".join(f"'{value}'" if isinstance(value, str) else str(value) for value in values) + "]"


def bound(statement: str, *values: str) -> str:
    """The statement with literals for its parameters."""
    for number, value in reversed(list(enumerate(values, 1))):
        statement = statement.replace(f"${number}", value)
    return statement


SOME_TENANTS = array("t1", "t7", "t99")
NUMBERS = array(1, 2, 3)

HOT_QUERIES = {
    "lock PaymentIntents": bound(sql.LOCK_PAYMENT_INTENTS, array("pi_1", "pi_5")),
    "read PaymentIntents": bound(sql.READ_PAYMENT_INTENTS, array("pi_1", "pi_5")),
    "lock balances": bound(sql.LOCK_BALANCES, SOME_TENANTS),
    "read references": bound(sql.READ_REFERENCES, "'{t1,t7,t99}'", "'{product,product,product}'", "'{job-1,x,job-3}'"),
    "read orders": bound(
        sql.READ_ORDERS, SOME_TENANTS, array("purchase", "attempt", "purchase"), array("pur_1", "att_7", "x")
    ),
    "read due holds": bound(sql.READ_DUE_HOLDS, SOME_TENANTS, "now()"),
    "read holds": bound(sql.READ_HOLDS, SOME_TENANTS, array("hold-1", "hold-2", "hold-10")),
    "end holds": bound(
        sql.UPDATE_HOLDS, SOME_TENANTS, array("hold-1", "hold-2", "hold-10"), array(*["released"] * 3), NUMBERS,
        "ARRAY[now(), now(), now()]", NUMBERS, NUMBERS,
    ),
    "read unspent grants": bound(sql.READ_UNSPENT_GRANTS, SOME_TENANTS),
    "read spent grants": bound(sql.READ_SPENT_GRANTS, SOME_TENANTS, NUMBERS),
    "update grants": bound(sql.UPDATE_GRANTS, "'{t1,t7,t99}'", *["'{1,2,3}'"] * 3, *["'{0,0,0}'"] * 4),
    "update balances": bound(
        sql.UPDATE_BALANCES, "'{t1,t7,t99}'", *["'{1,2,3}'"] * 6, "'{2026-09-01,2026-09-01,2026-09-01}'",
        array("{}", "{}", "{}"), "'{1,2,3}'", "'{2026-09-01,2026-09-01,2026-09-01}'",
    ),
    "a tenant's balance": compiled(select(balance).where(balance.c.tenant_id == "t7")),
    "first page of entries": compiled(entries_query(transfer, "t7", ALL, None, 50)),
    "next page of entries": compiled(entries_query(transfer, "t7", ALL, Cursor(NOW, "5"), 50)),
    "entries of a kind": compiled(entries_query(transfer, "t7", EntryFilter(frozenset([Kind.EXPIRY])), None, 50)),
    "entries of a time": compiled(entries_query(transfer, "t7", EntryFilter(since=NOW, until=NOW), None, 50)),
    "entries of a reference": compiled(entries_query(transfer, "t7", EntryFilter(reference="job-3"), None, 50)),
    "a balance in the past": compiled(balance_at_query("t7", NOW)),
    "unspent grants": compiled(grants_query("t7", before=None, limit=50, with_spent=False)),
    "all grants": compiled(grants_query("t7", before=5, limit=50, with_spent=True)),
    "open receipts": compiled(unapplied_receipts_query(after=None, limit=50)),
    "next open receipts": compiled(unapplied_receipts_query(after=Cursor(NOW, "pi_5"), limit=50)),
    "a receipt": compiled(receipt_query("pi_7")),
    "grants and holds that are due": compiled(due_tenants_query(NOW)),
    "PaymentIntents to look up": compiled(due_look_ups_query(NOW, 500)),
    "payments since": compiled(books_since_query((NOW, "pi_5"), NOW + timedelta(days=400))),
    "payments by name": compiled(payments_query(["pi_5", "pi_7"])),
}  # fmt: skip


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.fixture
async def filled(books: Books) -> Books:
    superuser = make_engine(
        books.database.superuser_url, application_name="ledger-test-fill", pool_size=1, statement_timeout_ms=100_000
    )
    async with superuser.begin() as connection:
        indexes = (await connection.exec_driver_sql(INDEXES)).all()
        assert len(indexes) > 2
        # To make them at the end takes a third of the time that it takes to keep them through a million rows.
        transfers = [*(index.drop for index in indexes), FILL_TRANSFER, *(index.make for index in indexes)]
        for statement in (*transfers, *FILL):
            await connection.exec_driver_sql(statement)
    await superuser.dispose()
    return books


async def test_every_hot_query_uses_an_index(filled: Books) -> None:
    """With the planner as it is, without the hints that batches give it."""
    async with filled.engine.begin() as connection:
        for name, query in HOT_QUERIES.items():
            explained = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {query}")
            plan: Any = explained.scalar_one()
            [root] = plan if isinstance(plan, list) else json.loads(plan)
            scans = [node for node in nodes(root["Plan"]) if node["Node Type"].endswith("Scan")]
            assert any("Index" in node["Node Type"] for node in scans), f"{name}: {root}"
            assert not any(node["Node Type"] == "Seq Scan" for node in scans), f"{name}: {root}"


async def test_updates_of_balances_and_grants_stay_in_their_pages(books: Books) -> None:
    """HOT: a debit adds nothing to the indexes of balance and grant."""
    await books.post(*(purchase(f"pi_{n}", 1000, tenant=f"t{n}") for n in range(50)))
    for batch in range(20):
        await books.post(*(debit(f"job-{batch}", 1, tenant=f"t{n}") for n in range(50)))
    async with books.engine.begin() as connection:
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
    rows = await books.rows(
        "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname IN ('balance', 'credit_grant')"
    )
    for row in rows:
        assert row.n_tup_upd >= 900, row
        assert row.n_tup_hot_upd / row.n_tup_upd > 0.95, row
