"""Pages of lists: their size, and where the next one begins."""

from typing import Annotated

from fastapi import Query

from ledger.api.errors import invalid_cursor
from ledger.repository.cursor import Cursor, InvalidCursor

PAGE_MAX = 200
CURSOR_CHARACTERS_MAX = 500

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
CursorText = Annotated[str | None, Query(max_length=CURSOR_CHARACTERS_MAX, description="`nextCursor` of a page.")]


def cursor_of(text: str | None) -> Cursor | None:
    """The cursor of a page. Raises a Problem 422 for any other text."""
    try:
        return None if text is None else Cursor.decode(text)
    except InvalidCursor as error:
        raise invalid_cursor() from error
