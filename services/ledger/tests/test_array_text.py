"""Columns as text arrive in PostgreSQL as they were."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.repository import array_text

from .books import Books

NASTY = ["", "NULL", "null", 'a"b', "a\\", '\\"', "{", "}", "{1,2}", ",", " ", "\n\t", "ä€😀", "'", "--", "\\x41", None]
TIMES = [
    datetime(2026, 9, 1, 12, 0, 0, 123456, UTC),
    None,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
]


@pytest.mark.parametrize(
    ("convert", "kind", "values"),
    [
        (array_text.of_texts, "text", NASTY),
        (array_text.of_texts, "text", ["plain", "texts"]),
        (array_text.of_texts, "text", ["plain", 'and "quoted"']),
        (array_text.of_texts, "text", []),
        (array_text.of_plain_texts, "text", ["{1,-2}", "{}"]),
        (array_text.of_integers, "bigint", [0, -(2**53), 2**53 - 1]),
        (array_text.of_times, "timestamptz", TIMES),
        (array_text.of_dates, "date", [date(2026, 9, 1), None]),
    ],
)
async def test_arrays_round_trip(
    books: Books, convert: Callable[[Sequence[Any]], str], kind: str, values: list[Any]
) -> None:
    [row] = await books.rows(f"SELECT CAST(CAST(:values AS text) AS {kind}[]) AS back", values=convert(values))
    assert row.back == values


async def test_microseconds_round_trip(books: Books) -> None:
    times = [datetime(2026, 9, 1, 12, 0, 0, 123456, UTC), None, datetime(1999, 12, 31, 23, 59, 59, 999999, UTC)]
    [row] = await books.rows(
        "SELECT array_agg('epoch'::timestamptz + each * interval '1 microsecond') AS back "
        "FROM unnest(CAST(CAST(:values AS text) AS bigint[])) AS each",
        values=array_text.of_microseconds(times),
    )
    assert row.back == times


def parsed(text: str) -> list[str]:
    """What PostgreSQL's rules for quoted elements say of it (8.15.6, Array Input and Output Syntax)."""
    found: list[str] = []
    position = 1
    while text[position] != "}":
        assert text[position] == '"'
        position, element = position + 1, ""
        while text[position] != '"':
            position += text[position] == "\\"
            element += text[position]
            position += 1
        found.append(element)
        position += 1 + (text[position + 1] == ",")
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from('a"\\,{} '), max_size=6), max_size=5))
def test_texts_are_escaped(values: list[str]) -> None:
    assert parsed(array_text.of_texts(values)) == values
