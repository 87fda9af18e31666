"""PostgreSQL through SQLAlchemy Core and asyncpg: engines with explicit limits, and transactions of one tenant."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from asyncpg.exceptions import (
    InternalClientError,
    InvalidCachedStatementError,
    PostgresError,
    ReadOnlySQLTransactionError,
)
from pydantic_core import from_json, to_json
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from shared.logs import get_logger

log = get_logger()

STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000


class DatabaseUnavailable(Exception):
    """PostgreSQL did not answer in time. The message says what to check."""


def make_engine(
    url: str, *, application_name: str, pool_size: int = 5, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
) -> AsyncEngine:
    """Creates an engine with time-outs for statements, locks and idle transactions. `url` is `postgresql://…`."""
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=False,
        pool_recycle=1_800,
        hide_parameters=True,  # errors are logged, and must not contain tenants' data
        json_deserializer=from_json,
        json_serializer=_to_json,
        connect_args={
            "timeout": 5,
            "command_timeout": statement_timeout_ms / 1000 + 5,
            "server_settings": {
                "application_name": application_name,
                "statement_timeout": str(statement_timeout_ms),
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
                "jit": "off",
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _discard_closed)
    event.listen(engine.sync_engine, "handle_error", _discard_broken)
    return engine


def _to_json(value: object) -> str:
    return to_json(value).decode()


def _discard_closed(_adapted: object, record: ConnectionPoolEntry, _fairy: object) -> None:
    """Replaces a pooled connection that PostgreSQL has closed, instead of letting the next request fail.

    asyncpg sees the closed socket, so this costs no round trip.
    """
    driver: Any = record.driver_connection
    if driver.is_closed():
        raise DisconnectionError


def _discard_broken(context: ExceptionContext) -> None:
    """Discards a connection that is open but of no use: asyncpg has lost its state after an interrupted operation, or
    the server has become a read-only standby."""
    cause = getattr(context.original_exception, "__cause__", None)
    if isinstance(cause, (InternalClientError, ReadOnlySQLTransactionError)):
        context.is_disconnect = True


@asynccontextmanager
async def tenant_transaction(engine: AsyncEngine, tenant: str) -> AsyncGenerator[AsyncConnection]:
    """Opens a transaction in which row-level security shows only the tenant's rows."""
    async with engine.begin() as connection:
        await confine_to_tenant(connection, tenant)
        yield connection


async def confine_to_tenant(connection: AsyncConnection, tenant: str) -> None:
    """For the rest of the transaction, the policies of the `*_api` role show only this tenant's rows."""
    await connection.execute(text("SELECT set_config('app.tenant_id', :tenant, true)"), {"tenant": tenant})


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed if it is retried: lost connections, time-outs, deadlocks, shutdowns."""
    if isinstance(error, (InterfaceError, OperationalError, PoolTimeout, OSError, TimeoutError)):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        # SQLAlchemy's adapter may wrap the error that asyncpg raised.
        driver_errors = (error.orig, getattr(error.orig, "__cause__", None))
        if any(isinstance(each, (InternalClientError, InvalidCachedStatementError)) for each in driver_errors):
            return True  # an operation was interrupted, or a migration changed a table
        state: str = getattr(error.orig, "sqlstate", None) or ""
        return _is_retryable_state(state)
    if isinstance(error, PostgresError):  # raised while connecting, when SQLAlchemy does not wrap it
        return _is_retryable_state(getattr(error, "sqlstate", None) or "")
    return False


#: Classes of https://www.postgresql.org/docs/current/errcodes-appendix.html: 08 connection, 28 authorization,
#: 40 rollback (deadlock, serialization), 53 resources, 57 operator intervention (statement time-out, shutdown),
#: 58 system error.
_RETRYABLE_CLASSES = frozenset(["08", "28", "40", "53", "57", "58"])
#: 25006 read-only (a standby, or a demoted primary); 25P03 idle-in-transaction time-out; 3D000 no such database;
#: 55000 the database accepts no connections; 55P03 lock time-out.
_RETRYABLE_STATES = frozenset(["25006", "25P03", "3D000", "55000", "55P03"])


def _is_retryable_state(sqlstate: str) -> bool:
    return sqlstate[:2] in _RETRYABLE_CLASSES or sqlstate in _RETRYABLE_STATES


def is_time_out(error: BaseException) -> bool:
    """Whether the error is a time-out: of `asyncio.timeout`, or PostgreSQL's statement time-out."""
    if isinstance(error, DBAPIError):
        return getattr(error.orig, "sqlstate", None) == "57014"
    return isinstance(error, TimeoutError)


@asynccontextmanager
async def open_engine(url: str, *, application_name: str, start_timeout_s: float) -> AsyncGenerator[AsyncEngine]:
    """An engine with one connection, for a command that ends by itself. Waits for PostgreSQL, and closes the engine at
    the end. Raises `DatabaseUnavailable` if PostgreSQL does not answer within `start_timeout_s`."""
    engine = make_engine(url, application_name=application_name, pool_size=1)
    try:
        await wait_for_database(engine, start_timeout_s)
        yield engine
    finally:
        await engine.dispose()


async def wait_for_database(engine: AsyncEngine, timeout_s: float) -> None:
    """Returns once PostgreSQL answers, and logs while it waits. Raises `DatabaseUnavailable` after `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    delay_s = 0.1
    while True:
        try:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            return
        except (DBAPIError, OSError, TimeoutError) as error:
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                url = engine.url.render_as_string(hide_password=True)
                raise DatabaseUnavailable(
                    f"PostgreSQL at {url} did not answer within {timeout_s:.0f} s ({type(error).__name__}). "
                    "Check that it runs, that the address is right and that migrations have made the role."
                ) from error
            log.warning("waiting_for_postgresql", remaining_s=round(remaining_s), error=type(error).__name__)
            await asyncio.sleep(min(delay_s, max(remaining_s, 0)))
            delay_s = min(delay_s * 2, 2.0)
