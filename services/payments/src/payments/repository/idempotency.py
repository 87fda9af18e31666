"""Idempotency keys: a repeated request gets the same response, another request under the same key is refused."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

KEPT_FOR = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What identifies a request."""

    tenant: str
    route: str
    key: str


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What is stored of a request: the resource it created or concerns, and its response once there is one."""

    input_hash: str
    resource_id: str
    stripe_try: int
    response: dict[str, Any] | None


async def find(connection: AsyncConnection, key: RequestKey) -> StoredRequest | None:
    """The stored request, or None for a new one."""
    row = (await connection.execute(_FIND, _named(key))).one_or_none()
    return None if row is None else StoredRequest(row.input_hash, row.resource_id, row.stripe_try, row.response)


async def claim(
    connection: AsyncConnection, key: RequestKey, *, input_hash: str, resource_id: str, now: datetime
) -> bool:
    """Claims the key for a new request; waits for a transaction that is just claiming it. False: `find` its request."""
    parameters = {**_named(key), "input_hash": input_hash, "resource_id": resource_id, "now": now}
    return (await connection.execute(_CLAIM, parameters)).rowcount == 1


async def store_response(connection: AsyncConnection, key: RequestKey, response: dict[str, Any]) -> None:
    """Stores the response for repeated requests. The first response stays."""
    await connection.execute(_STORE_RESPONSE, {**_named(key), "response": json.dumps(response)})


async def increment_stripe_try(connection: AsyncConnection, key: RequestKey, stripe_try: int) -> None:
    """Moves on to the next Stripe key, because Stripe repeats a 5xx under this one."""
    await connection.execute(_NEXT_TRY, {**_named(key), "try": stripe_try})


async def delete_old(connection: AsyncConnection, now: datetime) -> None:
    """Deletes the keys of requests that are too old to be repeated."""
    await connection.execute(_DELETE_OLD, {"before": now - KEPT_FOR})


def _named(key: RequestKey) -> dict[str, Any]:
    return {"tenant": key.tenant, "route": key.route, "key": key.key}


_FIND = text("SELECT * FROM idempotency WHERE tenant_id = :tenant AND route = :route AND key = :key")

_CLAIM = text("""
    INSERT INTO idempotency (tenant_id, route, key, input_hash, resource_id, created_at)
    VALUES (:tenant, :route, :key, :input_hash, :resource_id, :now)
    ON CONFLICT (tenant_id, route, key) DO NOTHING
""")

_STORE_RESPONSE = text("""
    UPDATE idempotency SET response = CAST(:response AS jsonb)
    WHERE tenant_id = :tenant AND route = :route AND key = :key AND response IS NULL
""")

_NEXT_TRY = text("""
    UPDATE idempotency SET stripe_try = stripe_try + 1
    WHERE tenant_id = :tenant AND route = :route AND key = :key AND stripe_try = :try
""")

_DELETE_OLD = text("DELETE FROM idempotency WHERE created_at < :before")
