"""Entries: transfers as a tenant sees them, those in the archive too."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, Table, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.core.accounts import Kind, Namespace
from ledger.repository.cursor import Cursor, InvalidCursor
from ledger.repository.tables import IN_TRANSFER_ORDER, transfer, transfer_archive


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries to read: of these kinds (all kinds if empty), from `since` until before `until`."""

    kinds: frozenset[Kind] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    reference: str | None = None


async def read_entries(
    connection: AsyncConnection, tenant: str, chosen: EntryFilter, *, before: Cursor | None, limit: int
) -> Sequence[Row[Any]]:
    """Transfers, newest first. The archive is read only if `transfer` has no more rows. Raises `InvalidCursor`."""
    rows = list((await connection.execute(entries_query(transfer, tenant, chosen, before, limit))).all())
    if len(rows) < limit:
        older = entries_query(transfer_archive, tenant, chosen, before, limit - len(rows))
        rows += (await connection.execute(older)).all()
    return rows


def entries_query(table: Table, tenant: str, chosen: EntryFilter, before: Cursor | None, limit: int) -> Select[Any]:
    """See `read_entries`. `table` is `transfer` or `transfer_archive`."""
    query = (
        select(table)
        .where(table.c.tenant_id == tenant, IN_TRANSFER_ORDER)
        .order_by(table.c.created_at.desc(), table.c.version.desc())
        .limit(limit)
    )
    if chosen.kinds:
        query = query.where(table.c.kind.in_(sorted(chosen.kinds)))
        if Kind.USAGE not in chosen.kinds:  # the condition of the index `transfer_not_usage`
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
