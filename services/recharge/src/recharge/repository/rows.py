"""Rows to and from SQL: a batch is one JSON parameter, opened by `jsonb_to_recordset`."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from sqlalchemy import TextClause
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection


async def write_rows(
    connection: AsyncConnection, statement: TextClause, rows: Sequence[Mapping[str, Any]], **more: Any
) -> Sequence[Row[Any]]:
    """Runs a statement over the rows (its parameter `:rows`) and returns what it returns; nothing for no rows."""
    if not rows:
        return ()
    result = await connection.execute(statement, {"rows": to_json(rows).decode(), **more})
    return result.all() if result.returns_rows else ()
