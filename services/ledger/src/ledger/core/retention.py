"""How long a reference is kept, and which transfers are archived."""

from datetime import UTC, datetime, timedelta

#: A reference answers for itself this long: the same again within it is never posted twice.
REFERENCES_KEPT = timedelta(days=400)


def archive_before(now: datetime) -> datetime:
    """Whole months (UTC) move at once: everything before the month in which references begin to be kept."""
    return (now.astimezone(UTC) - REFERENCES_KEPT).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
