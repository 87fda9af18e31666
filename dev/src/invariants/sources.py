"""Reads what the invariants are checked against: Stripe's charges, and our tables as the superuser sees them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import httpx

from embedded.servers import PostgresServer
from invariants.rules import AttemptSpan, Cap, Charge, Entry, Receipt

SERVICES = ("ledger", "payments", "recharge")
TIMEOUT_S = 30


async def charges_at_stripe(http: httpx.AsyncClient, stripe_url: str) -> list[Charge]:
    """Every charge that succeeded, as the simulator lists them."""
    response = await http.get(f"{stripe_url}/_sim/books", timeout=TIMEOUT_S)
    response.raise_for_status()
    return [Charge.of(entry) for entry in response.json()["charges"]]


async def entries_and_receipts(postgres: PostgresServer) -> tuple[list[Entry], list[Receipt]]:
    """What the ledger holds of PaymentIntents."""
    async with _connection(postgres, "ledger") as connection:
        entries = await connection.fetch("""
            SELECT tenant_id, kind, payment_intent, amount_minor, currency,
                   CASE WHEN destination = 'available' THEN credits ELSE -credits END AS credits
            FROM transfer WHERE payment_intent IS NOT NULL
        """)
        receipts = await connection.fetch("SELECT payment_intent, amount_minor, currency FROM unapplied_receipt")
    return (
        [
            Entry(
                row["tenant_id"],
                row["kind"],
                row["payment_intent"],
                row["credits"],
                row["amount_minor"],
                row["currency"],
            )
            for row in entries
        ],
        [Receipt(row["payment_intent"], row["amount_minor"], row["currency"]) for row in receipts],
    )


async def attempts_and_caps(postgres: PostgresServer) -> tuple[list[AttemptSpan], list[Cap]]:
    """Every attempt to charge a saved card, and the caps that recharge obeys."""
    async with _connection(postgres, "recharge") as connection:
        attempts = await connection.fetch("""
            SELECT tenant_id, attempt, created_at,
                   CASE WHEN state IN ('credited', 'canceled') THEN changed_at END AS ended_at
            FROM attempt
        """)
        caps = await connection.fetch("""
            SELECT tenant_id, profile #>> '{auto_recharge,currency}' AS currency,
                   (profile #>> '{auto_recharge,monthly_cap_minor}')::bigint AS monthly_cap_minor
            FROM profile WHERE profile #> '{auto_recharge,monthly_cap_minor}' IS NOT NULL
        """)
    return (
        [AttemptSpan(row["tenant_id"], row["attempt"], row["created_at"], row["ended_at"]) for row in attempts],
        [Cap(row["tenant_id"], row["currency"], row["monthly_cap_minor"]) for row in caps],
    )


async def foreign_rows_by_table(postgres: PostgresServer) -> tuple[int, dict[str, int]]:
    """How many tables were read, and how many rows of other tenants each service's `*_api` role sees in each of them
    while confined to one tenant. A table without rows of two tenants shows nothing and is not counted."""
    tables, foreign = 0, dict[str, int]()
    for service in SERVICES:
        async with _connection(postgres, service) as connection:
            for table in await _tables_with_tenant(connection):
                tenants = [
                    row["tenant_id"]
                    for row in await connection.fetch(f"SELECT DISTINCT tenant_id FROM {table} LIMIT 2")
                ]
                if len(tenants) < 2:
                    continue
                tables += 1
                foreign[f"{service}.{table}"] = await _read_as(connection, service, table, tenants[0])
    return tables, foreign


async def _tables_with_tenant(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("""
        SELECT relation.relname AS name
        FROM pg_class AS relation
        JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace AND schema.nspname = 'public'
        JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attname = 'tenant_id'
        WHERE relation.relkind IN ('r', 'p', 'v', 'm')
        ORDER BY relation.relname
    """)
    return [row["name"] for row in rows]


async def _read_as(connection: asyncpg.Connection, service: str, table: str, tenant: str) -> int:
    """Rows of others that the API's role reads while confined to `tenant`; 0 where it may not read the table at all."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {service}_api")
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        try:
            async with connection.transaction():
                rows = await connection.fetch(
                    f"SELECT count(*) AS foreign_rows FROM {table} WHERE tenant_id <> $1", tenant
                )
                return int(rows[0]["foreign_rows"])
        except asyncpg.InsufficientPrivilegeError:
            return 0


@asynccontextmanager
async def _connection(postgres: PostgresServer, database: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.url(database), timeout=TIMEOUT_S, command_timeout=TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close()
