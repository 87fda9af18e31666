"""Reads what a statement is built from: sums of a tenant's entries, in one snapshot."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledger.core.accounts import Kind
from ledger.core.statement import (
    CurrentGrant,
    DayUsage,
    GrantLine,
    GrantMove,
    KindTotal,
    Month,
    Standing,
    Statement,
    build_statement,
)
from shared.database import tenant_transaction

_STANDING = text("""
    SELECT version, balance_after AS balance, balance_after - available_after AS held, owed_after AS owed,
           receivable_after AS receivable
    FROM entry WHERE tenant_id = :tenant AND version > 0 AND created_at < :at
    ORDER BY created_at DESC, version DESC LIMIT 1
""")

_TOTALS = text("""
    SELECT kind, currency, count(*) AS entries, CAST(sum(amount_minor) AS bigint) AS amount_minor,
           CAST(sum(CASE WHEN destination IN ('available', 'held') THEN credits ELSE 0 END
                    - CASE WHEN source IN ('available', 'held') THEN credits ELSE 0 END) AS bigint) AS credits
    FROM entry WHERE tenant_id = :tenant AND version > 0 AND created_at >= :begin AND created_at < :end
    GROUP BY kind, currency ORDER BY kind, currency
""")

_MOVES = text("""
    SELECT grant_number, kind, destination = 'available' AS is_incoming,
           CAST(coalesce(sum(moved) FILTER (WHERE moved > 0), 0) AS bigint) AS gained,
           CAST(coalesce(sum(moved) FILTER (WHERE moved < 0), 0) AS bigint) AS lost
    FROM entry, unnest(grant_numbers, grant_credits) AS move (grant_number, moved)
    WHERE tenant_id = :tenant AND version > 0 AND created_at >= :begin
      AND (CAST(:end AS timestamptz) IS NULL OR created_at < :end)
    GROUP BY 1, 2, 3
""")

_GRANTS = text("""
    SELECT grant_number, entry.kind, reference, credit_grant.created_at, expires_at, remaining, held
    FROM credit_grant JOIN entry USING (tenant_id, door, reference, created_at)
    WHERE tenant_id = :tenant
      AND (NOT spent OR held > 0 OR credit_grant.created_at >= :begin OR grant_number = ANY (:touched))
""")

_USAGE = text("""
    SELECT CAST(created_at AT TIME ZONE 'UTC' AS date) AS day, coalesce(purpose, '') AS purpose,
           CAST(sum(credits) AS bigint) AS credits
    FROM entry
    WHERE tenant_id = :tenant AND version > 0 AND created_at >= :begin AND created_at < :end AND destination = 'used'
    GROUP BY 1, 2
""")


async def read_statement(engine: AsyncEngine, tenant: str, month: Month) -> Statement:
    """The tenant's statement of the month, up to now if the month is not over. `engine` has the role `ledger_api`."""
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    values = {"tenant": tenant, "begin": month.begin, "end": month.end}
    async with tenant_transaction(snapshot, tenant) as connection:
        opening, closing = [await _standing(connection, tenant, at) for at in (month.begin, month.end)]
        totals = (await connection.execute(_TOTALS, values)).all()
        moves_of_month = await _moves(connection, values)
        moves_since = await _moves(connection, values | {"begin": month.end, "end": None})
        touched = sorted({move.grant_number for move in (*moves_of_month, *moves_since)})
        grants = (await connection.execute(_GRANTS, values | {"touched": touched})).all()
        usage = (await connection.execute(_USAGE, values)).all()
    return build_statement(
        tenant,
        month,
        opening=opening,
        closing=closing,
        totals=[KindTotal(Kind(row.kind), row.entries, row.credits, row.currency, row.amount_minor) for row in totals],
        grants=[_grant(row) for row in grants],
        moves_of_month=moves_of_month,
        moves_since=moves_since,
        usage=[DayUsage(row.day, row.purpose, row.credits) for row in usage],
    )


async def _standing(connection: AsyncConnection, tenant: str, at: datetime) -> Standing:
    row = (await connection.execute(_STANDING, {"tenant": tenant, "at": at})).one_or_none()
    return Standing() if row is None else Standing(*row)


async def _moves(connection: AsyncConnection, values: dict[str, Any]) -> Sequence[GrantMove]:
    return [
        GrantMove(row.grant_number, Kind(row.kind), row.is_incoming, row.gained, row.lost)
        for row in await connection.execute(_MOVES, values)
    ]


def _grant(row: Row[Any]) -> CurrentGrant:
    line = GrantLine(row.grant_number, row.kind, row.reference, row.created_at, row.expires_at)
    return CurrentGrant(line, row.remaining, row.held)
