"""The clock of every service: UTC, one name. Decisions take `now` as an argument instead of calling this."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)
