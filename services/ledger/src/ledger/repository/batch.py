"""What a batch of commands reads and writes: a constant number of set-based statements, whatever its size.

Order of locks, the same in every transaction: PaymentIntents sorted by id, then balances sorted by tenant. References,
grants and waiting reversals are read after the locks, in statements of their own: PostgreSQL's READ COMMITTED gives
each statement a new snapshot, which includes what another worker committed before it released a lock.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import accumulate, islice
from operator import sub
from typing import Any, Protocol, cast

import asyncpg
from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.core.accounts import Kind, Namespace
from ledger.core.commands import HoldStatus, OrderKey, UnappliedReceipt, input_hash
from ledger.core.state import (
    Balance,
    DayUsage,
    Grant,
    GrantChange,
    HoldState,
    PaymentIntent,
    PostedReference,
    ReferenceKey,
    Transfer,
    UsageRun,
)
from ledger.repository import array_text, sql
from ledger.repository.payment_intent_rows import payment_intent_columns, payment_intent_of


class Statements(Protocol):
    """The part of asyncpg's connection that is used here."""

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Any]: ...

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str: ...


# Every statement of a batch finds its rows by key. Without statistics (in a new table) the planner may choose a scan
# and keep that plan while the table grows, so scans are disabled.
_BEGIN_BATCH = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
           set_config('enable_mergejoin', 'off', true)
""")


#: Names the statement in errors, and so in the reasons of dead letters: a part of what operators search for.
_STATEMENT = "a statement of ledger.sql"


@asynccontextmanager
async def begin_batch(connection: AsyncConnection) -> AsyncGenerator["Batch"]:
    """The statements of one batch, in the connection's transaction. Errors are SQLAlchemy's, as everywhere else."""
    await connection.execute(_BEGIN_BATCH)
    driver = cast(Statements, (await connection.get_raw_connection()).driver_connection)
    try:
        yield Batch(driver)
    except asyncpg.PostgresError as error:
        raise DBAPIError(_STATEMENT, None, error) from error
    except asyncpg.InterfaceError as error:
        raise InterfaceError(_STATEMENT, None, error) from error


class ReferenceTaken(Exception):
    """Something has been posted under the reference before."""


class Batch:
    """The statements of a batch; call them in the order of the methods."""

    def __init__(self, driver: Statements) -> None:
        self._driver = driver

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """Writing a transfer whose reference has been posted before raises `ReferenceTaken` in the block. Then the
        block is rolled back, and its locks are released."""
        await self._driver.execute("SAVEPOINT batch")
        try:
            yield
        except asyncpg.UniqueViolationError as error:
            if error.as_dict().get("constraint_name") != "transfer_pkey":
                raise
            await self._driver.execute("ROLLBACK TO SAVEPOINT batch")
            raise ReferenceTaken from error

    async def lock_payment_intents(self, ids: Sequence[str], now: datetime) -> dict[str, PaymentIntent]:
        """Locks every PaymentIntent of the batch, known or not, and then reads them. `ids` are sorted."""
        await self._driver.execute(sql.INSERT_PAYMENT_INTENTS, ids, now)
        await self._driver.execute(sql.LOCK_PAYMENT_INTENTS, ids)
        rows = await self._driver.fetch(sql.READ_PAYMENT_INTENTS, ids)
        return {row["payment_intent"]: payment_intent_of(row) for row in rows}

    async def open_balances(self, tenants: Sequence[str], now: datetime) -> set[str]:
        """Inserts empty balances for tenants that have none, and returns these tenants. `tenants` are sorted."""
        return {row[0] for row in await self._driver.fetch(sql.INSERT_BALANCES, tenants, now)}

    async def lock_balances(self, tenants: Sequence[str]) -> dict[str, Balance]:
        """Locks and reads the balances that exist. `tenants` are sorted."""
        rows = await self._driver.fetch(sql.LOCK_BALANCES, array_text.of_texts(tenants))
        return {
            row[0]: Balance(
                row[0], row[1], row[2], row[3], row[4], row[5], row[6],
                DayUsage(row[7], row[8], row[9]), row[10], row[11],
            )
            for row in rows
        }  # fmt: skip

    async def read_references(self, keys: Sequence[ReferenceKey]) -> dict[ReferenceKey, PostedReference]:
        """What has been posted under these references."""
        if not keys:
            return {}
        tenants, namespaces, references = zip(*keys, strict=True)
        rows = await self._driver.fetch(
            sql.READ_REFERENCES,
            array_text.of_texts(tenants),
            array_text.of_plain_texts(namespaces),
            array_text.of_texts(references),
        )
        return {
            ReferenceKey(row[0], Namespace(row[1]), row[2]): PostedReference(
                row[3] or input_hash(Kind.USAGE, -row[5]), row[4], row[5], row[6], row[7]
            )
            for row in rows
        }

    async def read_orders(self, orders: Sequence[OrderKey]) -> dict[OrderKey, str]:
        """The PaymentIntent that each of the orders was credited to, if it was."""
        tenants, kinds, names = zip(*orders, strict=True)
        rows = await self._driver.fetch(sql.READ_ORDERS, tenants, kinds, names)
        return {OrderKey(row[0], row[1], row[2]): row[3] for row in rows}

    async def read_holds(
        self, tenants: Sequence[str], named: Sequence[tuple[str, str]], now: datetime
    ) -> dict[str, list[HoldState]]:
        """The tenants' open holds that are due, and the `named` ones (tenant, reference), open or not."""
        rows = await self._driver.fetch(sql.READ_DUE_HOLDS, tenants, now) if tenants else []
        if named:
            rows += await self._driver.fetch(sql.READ_HOLDS, *zip(*named, strict=True))
        holds: dict[str, dict[str, HoldState]] = {}
        for row in rows:
            holds.setdefault(row[0], {})[row[1]] = HoldState(*row)._replace(status=HoldStatus(row[4]))
        return {tenant: list(of_tenant.values()) for tenant, of_tenant in holds.items()}

    async def read_grants(
        self, tenants: Sequence[str], named: Sequence[tuple[str, int]], in_debt: Sequence[str]
    ) -> dict[str, list[Grant]]:
        """The tenants' unspent grants, and the `named` ones (tenant, number), spent or not. Of the tenants `in_debt`
        also those whose reversals are not paid."""
        rows = await self._driver.fetch(sql.READ_UNSPENT_GRANTS, array_text.of_texts(tenants))
        if named:
            owners, numbers = zip(*named, strict=True)
            rows += await self._driver.fetch(sql.READ_SPENT_GRANTS, owners, numbers)
        if in_debt:
            rows += await self._driver.fetch(sql.READ_GRANTS_IN_DEBT, in_debt)
        grants: dict[str, dict[int, Grant]] = {}
        for row in rows:
            grants.setdefault(row[0], {})[row[1]] = Grant(*row)
        return {tenant: list(of_tenant.values()) for tenant, of_tenant in grants.items()}

    async def insert_runs(self, runs: Sequence[UsageRun]) -> None:
        await self._driver.execute(sql.INSERT_RUNS, *_run_columns(runs))

    async def insert_transfers(self, transfers: Sequence[Transfer]) -> None:
        await self._driver.execute(sql.INSERT_TRANSFERS, *_transfer_columns(transfers))

    async def update_balances(self, balances: Sequence[Balance]) -> None:
        columns = list(zip(*balances, strict=True))
        usage: Sequence[DayUsage] = columns[7]
        await self._driver.execute(
            sql.UPDATE_BALANCES,
            array_text.of_texts(columns[0]),
            *(array_text.of_integers(column) for column in columns[1:7]),
            array_text.of_dates([each.day for each in usage]),
            array_text.of_texts([to_json(each.by_purpose).decode() for each in usage]),
            array_text.of_integers(each.of_other_purposes for each in usage),
            array_text.of_times(columns[8]),
        )

    async def insert_grants(self, grants: Sequence[Grant]) -> None:
        await self._driver.execute(sql.INSERT_GRANTS, *zip(*grants, strict=True))

    async def update_grants(self, changes: Sequence[GrantChange]) -> None:
        tenants, *numbers = zip(*changes, strict=True)
        await self._driver.execute(
            sql.UPDATE_GRANTS, array_text.of_texts(tenants), *(array_text.of_integers(column) for column in numbers)
        )

    async def insert_holds(self, holds: Sequence[HoldState]) -> None:
        columns: list[Sequence[Any]] = list(zip(*holds, strict=True))
        for index in (6, 7):
            columns[index] = [_array_text(values) for values in columns[index]]
        await self._driver.execute(sql.INSERT_HOLDS, *columns)

    async def end_holds(self, holds: Sequence[HoldState]) -> None:
        await self._driver.execute(
            sql.UPDATE_HOLDS,
            [each.tenant for each in holds],
            [each.reference for each in holds],
            [each.status for each in holds],
            [each.captured for each in holds],
            [each.ended_at for each in holds],
            [each.ended_version for each in holds],
            [each.ended_available for each in holds],
        )

    async def update_payment_intents(self, intents: Sequence[PaymentIntent]) -> None:
        await self._driver.execute(sql.UPDATE_PAYMENT_INTENTS, *payment_intent_columns(intents))

    async def insert_receipts(self, receipts: Sequence[UnappliedReceipt], now: datetime) -> None:
        await self._driver.execute(
            sql.INSERT_RECEIPTS,
            [each.claimed_tenant for each in receipts],
            [each.payment_intent for each in receipts],
            [each.amount_minor for each in receipts],
            [each.currency for each in receipts],
            [each.reason for each in receipts],
            [each.purchase for each in receipts],
            [each.attempt for each in receipts],
            now,
        )

    async def resolve_receipts(self, receipts: Sequence[tuple[str, str]], now: datetime) -> None:
        """Closes receipts (claimed tenant, PaymentIntent) that have been credited after all."""
        await self._driver.execute(sql.RESOLVE_RECEIPTS, *zip(*receipts, strict=True), now)


def _transfer_columns(transfers: Sequence[Transfer]) -> list[Sequence[Any]]:
    columns: list[Sequence[Any]] = list(zip(*transfers, strict=True))
    for index in sql.TRANSFER_ARRAY_COLUMNS:
        columns[index] = [_array_text(values) for values in columns[index]]
    return columns


def _run_columns(runs: Sequence[UsageRun]) -> list[Any]:
    """The columns of `sql.INSERT_RUNS`, in its order. Of each run: what its debits have in common, then, as the text of
    an array, what each has of its own."""
    references: list[str] = []
    credits: list[str] = []
    balances: list[str] = []
    purposes: list[str] = []
    times: list[str] = []
    for run in runs:
        _tenants, of_references, of_credits, of_purposes, of_times = zip(*run.debits, strict=True)
        references.append(array_text.of_texts(of_references))
        credits.append(array_text.of_integers(of_credits))
        balances.append(
            array_text.of_integers(islice(accumulate(of_credits, sub, initial=run.opening_balance), 1, None))
        )
        purposes.append(array_text.of_texts(of_purposes))
        times.append(array_text.of_microseconds(of_times))
    return [
        array_text.of_texts([run.tenant for run in runs]),
        array_text.of_integers(run.first_version for run in runs),
        array_text.of_integers(run.held for run in runs),
        array_text.of_integers(run.owed for run in runs),
        array_text.of_integers(run.receivable for run in runs),
        array_text.of_integers(run.grant_number for run in runs),
        array_text.of_times([run.created_at for run in runs]),
        array_text.of_texts(references), array_text.of_plain_texts(credits), array_text.of_plain_texts(balances),
        array_text.of_texts(purposes), array_text.of_plain_texts(times),
    ]  # fmt: skip


def _array_text(values: Sequence[int]) -> str:
    """An array as text: unnest would flatten an array of arrays."""
    return f"{{{values[0]}}}" if len(values) == 1 else array_text.of_integers(values)
