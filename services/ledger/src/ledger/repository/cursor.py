"""Where a page of a list ended, as an opaque text."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

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
