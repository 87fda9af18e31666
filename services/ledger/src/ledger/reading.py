"""What the API reads. Tenants' queries run under row-level security; the operator's with the worker's role."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.tables import balance, transfer, unapplied_receipt

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InvalidCursor(ValueError):
    """The text is no cursor of ours."""


class Cursor(NamedTuple):
    """Where a page ended: a time and what tells rows of the same time apart."""

    at: datetime
    last: str

    def encode(self) -> str:
        microseconds = (self.at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(f"{microseconds}:{self.last}".encode()).decode().rstrip("=")

    @staticmethod
    def decode(cursor: str) -> "Cursor":
        """Raises `InvalidCursor`."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            microseconds, _, last = base64.b64decode(padded, b"-_", validate=True).decode().partition(":")
            if not last or "\x00" in last:
                raise InvalidCursor(cursor)
            return Cursor(_EPOCH + timedelta(microseconds=int(microseconds)), last)
        except (ValueError, OverflowError, binascii.Error) as error:
            raise InvalidCursor(cursor) from error


async def read_balance(connection: AsyncConnection, tenant: str) -> Row[Any] | None:
    """The tenant's row of `balance`."""
    return (await connection.execute(select(balance).where(balance.c.tenant_id == tenant))).one_or_none()


async def read_entries(
    connection: AsyncConnection, tenant: str, *, before: Cursor | None, limit: int
) -> Sequence[Row[Any]]:
    """Transfers, newest first. Raises `InvalidCursor`."""
    return (await connection.execute(entries_query(tenant, before=before, limit=limit))).all()


def entries_query(tenant: str, *, before: Cursor | None, limit: int) -> Select[Any]:
    """See `read_entries`."""
    query = (
        select(transfer)
        .where(transfer.c.tenant_id == tenant)
        .order_by(transfer.c.created_at.desc(), transfer.c.version.desc())
        .limit(limit)
    )
    if before is not None:
        try:
            version = int(before.last)
        except ValueError as error:
            raise InvalidCursor(before.last) from error
        if not 0 <= version < 2**63:
            raise InvalidCursor(before.last)
        query = query.where(tuple_(transfer.c.created_at, transfer.c.version) < (before.at, version))
    return query


async def read_unapplied_receipts(
    connection: AsyncConnection, *, after: Cursor | None, limit: int
) -> Sequence[Row[Any]]:
    """Receipts that nobody has resolved, oldest first."""
    return (await connection.execute(unapplied_receipts_query(after=after, limit=limit))).all()


def unapplied_receipts_query(*, after: Cursor | None, limit: int) -> Select[Any]:
    """See `read_unapplied_receipts`."""
    query = (
        select(unapplied_receipt)
        .where(unapplied_receipt.c.resolved_at.is_(None))
        .order_by(unapplied_receipt.c.received_at, unapplied_receipt.c.payment_intent)
        .limit(limit)
    )
    if after is not None:
        key = tuple_(unapplied_receipt.c.received_at, unapplied_receipt.c.payment_intent)
        query = query.where(key > (after.at, after.last))
    return query
