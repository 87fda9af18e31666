"""What the API reads. Tenants' queries run under row-level security; the operator's with the worker's role."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, Table, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.core.accounts import Kind, Namespace
from ledger.tables import (
    balance,
    credit_grant,
    entry,
    hold,
    payment_intent,
    transfer,
    transfer_archive,
    unapplied_receipt,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


#: The condition of the index `transfer_in_order`.
_IN_ORDER = text("version > 0")


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


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are asked for: of these kinds (all where there are none), from `since` until before `until`."""

    kinds: frozenset[Kind] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    reference: str | None = None


async def read_balance(connection: AsyncConnection, tenant: str) -> Row[Any] | None:
    """The tenant's row of `balance`."""
    return (await connection.execute(select(balance).where(balance.c.tenant_id == tenant))).one_or_none()


async def read_balance_at(connection: AsyncConnection, tenant: str, at: datetime) -> Row[Any] | None:
    """The last entry that was posted at or before `at`: its `…_after` columns are the balance then."""
    return (await connection.execute(balance_at_query(tenant, at))).one_or_none()


def balance_at_query(tenant: str, at: datetime) -> Select[Any]:
    """See `read_balance_at`."""
    return (
        select(entry)
        .where(entry.c.tenant_id == tenant, entry.c.created_at <= at, _IN_ORDER)
        .order_by(entry.c.created_at.desc(), entry.c.version.desc())
        .limit(1)
    )


async def read_grants(
    connection: AsyncConnection, tenant: str, *, before: int | None, limit: int, with_spent: bool
) -> Sequence[Row[Any]]:
    """The tenant's grants, newest first; without those of which nothing is left unless `with_spent`."""
    return (await connection.execute(grants_query(tenant, before=before, limit=limit, with_spent=with_spent))).all()


def grants_query(tenant: str, *, before: int | None, limit: int, with_spent: bool) -> Select[Any]:
    """See `read_grants`."""
    query = (
        select(credit_grant)
        .where(credit_grant.c.tenant_id == tenant)
        .order_by(credit_grant.c.grant_number.desc())
        .limit(limit)
    )
    if not with_spent:
        query = query.where(~credit_grant.c.spent)
    return query if before is None else query.where(credit_grant.c.grant_number < before)


async def read_hold(connection: AsyncConnection, tenant: str, reference: str) -> Row[Any] | None:
    """One hold of the tenant."""
    query = select(hold).where(hold.c.tenant_id == tenant, hold.c.reference == reference)
    return (await connection.execute(query)).one_or_none()


async def read_entries(
    connection: AsyncConnection, tenant: str, chosen: EntryFilter, *, before: Cursor | None, limit: int
) -> Sequence[Row[Any]]:
    """Transfers, newest first; in the archive is looked only when the rest has no more. Raises `InvalidCursor`."""
    rows = list((await connection.execute(entries_query(transfer, tenant, chosen, before, limit))).all())
    if len(rows) < limit:
        older = entries_query(transfer_archive, tenant, chosen, before, limit - len(rows))
        rows += (await connection.execute(older)).all()
    return rows


def entries_query(table: Table, tenant: str, chosen: EntryFilter, before: Cursor | None, limit: int) -> Select[Any]:
    """See `read_entries`. `table` is `transfer` or `transfer_archive`."""
    query = (
        select(table)
        .where(table.c.tenant_id == tenant, _IN_ORDER)
        .order_by(table.c.created_at.desc(), table.c.version.desc())
        .limit(limit)
    )
    if chosen.kinds:
        query = query.where(table.c.kind.in_(sorted(chosen.kinds)))
        if Kind.USAGE not in chosen.kinds:  # in words that the index of the few has
            query = query.where(table.c.kind != text("'usage'"))
    if chosen.since is not None:
        query = query.where(table.c.created_at >= chosen.since)
    if chosen.until is not None:
        query = query.where(table.c.created_at < chosen.until)
    if chosen.reference is not None:
        query = query.where(table.c.door.in_(list(Namespace)), table.c.reference == chosen.reference)
    if before is not None:
        try:
            version = int(before.last)
        except ValueError as error:
            raise InvalidCursor(before.last) from error
        if not 0 <= version < 2**63:
            raise InvalidCursor(before.last)
        query = query.where(tuple_(table.c.created_at, table.c.version) < (before.at, version))
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


async def read_receipt(connection: AsyncConnection, name: str) -> Row[Any] | None:
    """The receipt of this PaymentIntent, resolved or not; None where it has none, or one without money."""
    return (await connection.execute(receipt_query(name))).one_or_none()


def receipt_query(name: str) -> Select[Any]:
    """See `read_receipt`. Receipts are kept by the tenant that they claim, and the PaymentIntent knows which."""
    of_intent = (unapplied_receipt.c.tenant_id == payment_intent.c.receipt_tenant) & (
        unapplied_receipt.c.payment_intent == payment_intent.c.payment_intent
    )
    return (
        select(unapplied_receipt)
        .join(payment_intent, of_intent)
        .where(payment_intent.c.payment_intent == name, unapplied_receipt.c.amount_minor > 0)
    )
