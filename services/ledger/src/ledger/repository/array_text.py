"""Writes columns as PostgreSQL's text of an array (`{1,2}`), which the statement casts to an array.

asyncpg's own arrays cost half a microsecond for each element, since each may be an array again. That is more than the
whole plan of a batch costs.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import cast

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def of_integers(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def of_texts(values: Sequence[str | None]) -> str:
    """Any texts without NUL, which PostgreSQL does not store."""
    if None not in values:
        joined = '","'.join(cast(Sequence[str], values))
        if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
            return f'{{"{joined}"}}' if values else "{}"
    return "{" + ",".join(["NULL" if value is None else f'"{_escaped(value)}"' for value in values]) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def of_plain_texts(values: Iterable[str]) -> str:
    """At least one text, each without quotes and backslashes: arrays of numbers, for example."""
    return '{"' + '","'.join(values) + '"}'


def of_dates(values: Iterable[date | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else value.isoformat() for value in values]) + "}"


def of_times(values: Iterable[datetime | None]) -> str:
    """Times with their zone. Within a batch they are often the same object, which is formatted once."""
    texts: list[str] = []
    last, text = None, "NULL"
    for value in values:
        if value is not last:
            last, text = value, "NULL" if value is None else f'"{value.isoformat()}"'
        texts.append(text)
    return "{" + ",".join(texts) + "}"


def of_microseconds(values: Iterable[datetime | None]) -> str:
    """Times as microseconds since 1970, which are cheaper to write and to parse. Within a batch they are often the same
    object, which is formatted once."""
    texts: list[str] = []
    last, text = None, "NULL"
    for value in values:
        if value is not last:
            last, text = value, "NULL" if value is None else str((value - _EPOCH) // _MICROSECOND)
        texts.append(text)
    return "{" + ",".join(texts) + "}"
