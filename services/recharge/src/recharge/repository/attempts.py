"""Attempts and their tries."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.attempts import Attempt, Outcome, State, Try
from recharge.repository.rows import write_rows

_ATTEMPT_TYPES = {
    "version": "bigint", "amount_minor": "bigint", "credits": "bigint", "expires_in_days": "int",
    "limited_by_cap": "boolean", "profile_version": "bigint", "balance_available": "bigint",
    "created_at": "timestamptz", "changed_at": "timestamptz", "next_at": "timestamptz", "reserved_month": "date",
    "n": "int", "rounds": "int", "canceling": "boolean", "receipt_unapplied": "boolean",
    "not_found_at": "timestamptz",
}  # fmt: skip
_ATTEMPT_COLUMNS = [field.name for field in fields(Attempt)]
_ATTEMPT_RECORD = ", ".join(f"{name} {_ATTEMPT_TYPES.get(name, 'text')}" for name in _ATTEMPT_COLUMNS)
_NEVER_CHANGES = frozenset(
    ["tenant_id", "attempt", "trigger", "request", "amount_minor", "currency", "credits", "package", "created_at"]
)
_TRY_COLUMNS = [field.name for field in fields(Try)]

# The identifiers in these statements are the names of our own dataclasses' fields.
_RESERVE = text(f"""
    INSERT INTO attempt ({", ".join(_ATTEMPT_COLUMNS)})
    SELECT {", ".join(_ATTEMPT_COLUMNS)} FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new ({_ATTEMPT_RECORD})
    ORDER BY tenant_id
    ON CONFLICT DO NOTHING
    RETURNING tenant_id, attempt
""")  # noqa: S608

_SAVE = text(f"""
    UPDATE attempt SET {", ".join(f"{name} = new.{name}" for name in _ATTEMPT_COLUMNS if name not in _NEVER_CHANGES)}
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new ({_ATTEMPT_RECORD})
    WHERE attempt.tenant_id = new.tenant_id AND attempt.attempt = new.attempt
""")  # noqa: S608

_LOAD = text(f"""
    SELECT {", ".join(_ATTEMPT_COLUMNS)} FROM attempt WHERE attempt = ANY (CAST(:attempts AS text[]))
    ORDER BY tenant_id, attempt FOR UPDATE
""")  # noqa: S608

_LOAD_WAITING = text(f"""
    SELECT {", ".join(_ATTEMPT_COLUMNS)} FROM attempt
    WHERE tenant_id = ANY (CAST(:tenants AS text[])) AND state NOT IN ('credited', 'canceled')
      AND state = ANY (CAST(:states AS text[])) AND next_at > :now
    ORDER BY tenant_id, attempt FOR UPDATE
""")  # noqa: S608

_LOAD_ONE_UNLOCKED = text(f"""
    SELECT {", ".join(_ATTEMPT_COLUMNS)} FROM attempt
    WHERE tenant_id = :tenant AND attempt = :attempt FOR UPDATE SKIP LOCKED
""")  # noqa: S608

_READ_ONE = text(f"""
    SELECT {", ".join(_ATTEMPT_COLUMNS)} FROM attempt WHERE tenant_id = :tenant AND attempt = :attempt
""")  # noqa: S608

_TENANTS_OF = text("SELECT DISTINCT tenant_id FROM attempt WHERE attempt = ANY (CAST(:attempts AS text[]))")

_TRIES = text(f"""
    SELECT attempt, {", ".join(_TRY_COLUMNS)} FROM attempt_try
    WHERE tenant_id = ANY (CAST(:tenants AS text[])) AND attempt = ANY (CAST(:attempts AS text[]))
    ORDER BY attempt, n
""")  # noqa: S608

_PARAMETERS = text("SELECT parameters FROM attempt_try WHERE tenant_id = :tenant AND attempt = :attempt AND n = :n")

# A key keeps its parameters: the same key with others is an error at Stripe.
_SAVE_TRIES = text("""
    INSERT INTO attempt_try AS mine (tenant_id, attempt, n, payment_method, fingerprint, idempotency_key, creates,
        parameters, first_called_at, calls, in_doubt, server_errors, outcome, code, may_repeat, answered_at)
    SELECT tenant_id, attempt, n, payment_method, fingerprint, idempotency_key, creates, COALESCE(parameters, '{}'),
        first_called_at, calls, in_doubt, server_errors, outcome, code, may_repeat, answered_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, attempt text, n int, payment_method text, fingerprint text, idempotency_key text,
                 creates boolean, parameters jsonb, first_called_at timestamptz, calls int, in_doubt boolean,
                 server_errors int, outcome text, code text, may_repeat boolean, answered_at timestamptz)
    ON CONFLICT (tenant_id, attempt, n) DO UPDATE
    SET first_called_at = excluded.first_called_at, calls = excluded.calls, in_doubt = excluded.in_doubt,
        server_errors = excluded.server_errors, outcome = excluded.outcome, code = excluded.code,
        may_repeat = excluded.may_repeat, answered_at = excluded.answered_at
""")

_DUE = text("""
    SELECT tenant_id, attempt, state, canceling FROM attempt
    WHERE state NOT IN ('credited', 'canceled') AND next_at <= :now
      AND attempt <> ALL (CAST(:in_flight AS text[]))
    ORDER BY next_at LIMIT :limit
""")

# Ids of attempts sort by the time they were made.
_ATTEMPTS = text("""
    SELECT attempt, state, trigger, reason, action_required, amount_minor, currency, credits, package, limited_by_cap,
           payment_intent, profile_version, n AS tries, created_at, changed_at
    FROM attempt WHERE tenant_id = :tenant AND (CAST(:before AS text) IS NULL OR attempt < :before)
    ORDER BY attempt DESC LIMIT :limit
""")


async def reserve(connection: AsyncConnection, attempts: Sequence[Attempt]) -> set[str]:
    """Inserts new attempts, one a tenant; returns those for which there was no open one."""
    rows = [asdict(attempt) for attempt in attempts]
    return {row.attempt for row in await write_rows(connection, _RESERVE, rows)}


async def save_attempts(connection: AsyncConnection, attempts: Sequence[Attempt]) -> None:
    """Writes attempts that the caller has loaded, and so locked, in this transaction."""
    await write_rows(connection, _SAVE, [asdict(attempt) for attempt in attempts])


async def tenants_of(connection: AsyncConnection, attempts: Iterable[str]) -> list[str]:
    """Whose attempts these are; those unknown are left out."""
    rows = await connection.execute(_TENANTS_OF, {"attempts": sorted(set(attempts))})
    return [row.tenant_id for row in rows]


async def load_attempts(connection: AsyncConnection, attempts: Iterable[str]) -> dict[str, Attempt]:
    """Loads and locks attempts, whatever their state. Their tenants are locked before (`lock_tenants`)."""
    rows = await connection.execute(_LOAD, {"attempts": sorted(set(attempts))})
    return {row.attempt: _attempt(row) for row in rows}


async def load_waiting(
    connection: AsyncConnection, tenants: Iterable[str], states: Iterable[State], now: datetime
) -> list[Attempt]:
    """Loads and locks the attempts of these tenants, which the caller has locked, that wait in one of the states."""
    wanted = {"tenants": sorted(set(tenants)), "states": sorted(states), "now": now}
    return [_attempt(row) for row in await connection.execute(_LOAD_WAITING, wanted)]


async def read_attempt(connection: AsyncConnection, tenant: str, attempt: str) -> Attempt | None:
    """One attempt of this tenant as it is now. Not locked: for callers that only read."""
    row = (await connection.execute(_READ_ONE, {"tenant": tenant, "attempt": attempt})).first()
    return None if row is None else _attempt(row)


async def attempts_of(connection: AsyncConnection, tenant: str, before: str | None, limit: int) -> Sequence[Row[Any]]:
    """Attempts made before the attempt `before`."""
    rows = await connection.execute(_ATTEMPTS, {"tenant": tenant, "before": before, "limit": limit})
    return rows.all()


async def claim_attempt(connection: AsyncConnection, tenant: str, attempt: str) -> Attempt | None:
    """Loads and locks one attempt; None where another worker has it."""
    row = (await connection.execute(_LOAD_ONE_UNLOCKED, {"tenant": tenant, "attempt": attempt})).first()
    return None if row is None else _attempt(row)


async def load_tries(connection: AsyncConnection, attempts: Iterable[Attempt]) -> dict[str, tuple[Try, ...]]:
    """The tries of each attempt, first to last."""
    attempts = list(attempts)
    rows = await connection.execute(
        _TRIES,
        {
            "tenants": sorted({each.tenant_id for each in attempts}),
            "attempts": sorted(each.attempt for each in attempts),
        },
    )
    found: dict[str, tuple[Try, ...]] = {each.attempt: () for each in attempts}
    for row in rows:
        found[row.attempt] = (*found[row.attempt], _try(row))
    return found


async def save_tries(
    connection: AsyncConnection, tries: Iterable[tuple[Attempt, Try]], parameters: dict[str, Any] | None = None
) -> None:
    """Writes tries. `parameters` are those of a new try's call; an old try keeps its own."""
    rows = [
        {**asdict(one), "tenant_id": attempt.tenant_id, "attempt": attempt.attempt, "parameters": parameters}
        for attempt, one in tries
    ]
    await write_rows(connection, _SAVE_TRIES, rows)


async def load_parameters(connection: AsyncConnection, attempt: Attempt) -> dict[str, Any]:
    """The parameters of the attempt's last try."""
    row = await connection.execute(
        _PARAMETERS, {"tenant": attempt.tenant_id, "attempt": attempt.attempt, "n": attempt.n}
    )
    return row.scalar_one()


async def due_attempts(
    connection: AsyncConnection, now: datetime, in_flight: Iterable[str], limit: int
) -> Sequence[Row[Any]]:
    """Open attempts that are due, the longest waiting first. Not locked: `claim_attempt` locks."""
    result = await connection.execute(_DUE, {"now": now, "in_flight": sorted(in_flight), "limit": limit})
    return result.all()


def _attempt(row: Row[Any]) -> Attempt:
    values: dict[str, Any] = {name: getattr(row, name) for name in _ATTEMPT_COLUMNS}
    values["state"] = State(row.state)
    return Attempt(**values)


def _try(row: Row[Any]) -> Try:
    values: dict[str, Any] = {name: getattr(row, name) for name in _TRY_COLUMNS}
    values["outcome"] = None if row.outcome is None else Outcome(row.outcome)
    return Try(**values)
