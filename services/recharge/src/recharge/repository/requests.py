"""Requests of tenants to be recharged now."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.repository.rows import write_rows
from shared.events import RechargeRequested

# A request that is older than the credits of the last charge was answered by them.
_SAVE_REQUESTS = text("""
    INSERT INTO request (tenant_id, request, requested_by, requested_at, expires_at, state, reason)
    SELECT new.tenant_id, new.request, requested_by, requested_at, expires_at,
           CASE WHEN last.has_answered THEN 'refused' ELSE 'waiting' END,
           CASE WHEN last.has_answered THEN 'need_already_served' END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, request text, requested_by text, requested_at timestamptz, expires_at timestamptz)
    LEFT JOIN LATERAL (
        SELECT state = 'credited' AND changed_at >= new.requested_at AS has_answered FROM attempt
        WHERE attempt.tenant_id = new.tenant_id ORDER BY created_at DESC, attempt DESC LIMIT 1
    ) AS last ON true
    ORDER BY new.tenant_id, new.request
    ON CONFLICT DO NOTHING
    RETURNING tenant_id
""")

_FINISH_REQUESTS = text("""
    UPDATE request SET state = new.state, reason = new.reason, attempt = new.attempt
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS new (tenant_id text, request text, state text, reason text, attempt text)
    WHERE request.tenant_id = new.tenant_id AND request.request = new.request AND request.state = 'waiting'
""")

_ANSWER_WAITING_REQUESTS = text("""
    UPDATE request SET state = 'refused', reason = 'need_already_served'
    WHERE tenant_id = ANY (CAST(:tenants AS text[])) AND state = 'waiting'
""")


async def save_requests(connection: AsyncConnection, requests: Iterable[RechargeRequested]) -> list[str]:
    """Keeps requests not seen before; returns their tenants."""
    rows = [
        {
            "tenant_id": each.tenant,
            "request": each.request,
            "requested_by": each.requested_by,
            "requested_at": each.requested_at,
            "expires_at": each.expires_at,
        }
        for each in requests
    ]
    return [row.tenant_id for row in await write_rows(connection, _SAVE_REQUESTS, rows)]


async def finish_requests(connection: AsyncConnection, closed: Sequence[dict[str, Any]]) -> None:
    """Ends waiting requests: rows of tenant_id, request, state, reason, attempt."""
    await write_rows(connection, _FINISH_REQUESTS, closed)


async def answer_waiting_requests(connection: AsyncConnection, tenants: Iterable[str]) -> None:
    """Credits of a charge have been posted: they answer all requests that wait."""
    wanted = sorted(set(tenants))
    if wanted:
        await connection.execute(_ANSWER_WAITING_REQUESTS, {"tenants": wanted})
