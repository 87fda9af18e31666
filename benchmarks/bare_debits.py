"""The baseline for the ledger: debits on the same PostgreSQL, without any of our code.

One row inserted and one balance updated for each debit, by UNNEST, on one connection. No idempotency except
by the primary key, no grants, no events.
"""

import time
from collections.abc import Sequence

import asyncpg

BATCH = 500

_TABLES = """
    CREATE TABLE IF NOT EXISTS bare_balance (tenant text PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS bare_debit (
        tenant text, reference text, credits bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant, reference))
"""

_DEBITS = """
    WITH debit AS (
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS debit (tenant, reference, credits)
    ), posted AS (
        INSERT INTO bare_debit (tenant, reference, credits) SELECT tenant, reference, credits FROM debit
    )
    UPDATE bare_balance SET balance = bare_balance.balance - used.credits
    FROM (SELECT tenant, sum(credits)::bigint AS credits FROM debit GROUP BY tenant) AS used
    WHERE bare_balance.tenant = used.tenant
"""


async def prepare(connection: asyncpg.Connection, tenants: Sequence[str]) -> None:
    """Makes the tables and the tenants' balances."""
    await connection.execute(_TABLES)
    await connection.execute("INSERT INTO bare_balance SELECT unnest($1::text[]), 1000000000000", tenants)
    await connection.execute("VACUUM ANALYZE bare_balance")


async def debits_per_s(connection: asyncpg.Connection, tenants: Sequence[str], records: int, run: str) -> float:
    """Writes `records` debits of the tenants in turn, a batch a transaction, and returns how many a second."""
    began = time.perf_counter()
    for first in range(0, records, BATCH):
        numbers = range(first, min(first + BATCH, records))
        await connection.execute(
            _DEBITS,
            [tenants[number % len(tenants)] for number in numbers],
            [f"{run}-{number}" for number in numbers],
            [1] * len(numbers),
        )
    return records / (time.perf_counter() - began)
