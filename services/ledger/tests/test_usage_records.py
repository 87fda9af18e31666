"""Usage is read as `shared.events` would read it, only faster."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.commands import Usage
from ledger.usage_records import USAGE_AGE_MAX, USAGE_AHEAD_MAX, usage_of
from shared.events import UndecodableEvent, UsageRecorded, decode
from shared.kafka import Record
from shared.poison import Poison, RecordRefused

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)


def record(value: bytes | None) -> Record:
    return Record("usage.recorded", 0, 1, "acme", value)


def event(**data: Any) -> bytes:
    usual = {"tenant": "acme", "reference": "job-1", "credits": 3, "occurred_at": NOW.isoformat(), "purpose": "x"}
    return json.dumps({"specversion": "1.0", "type": "usage.recorded.v1", "data": usual | data}).encode()


def as_decoded(value: bytes) -> list[Usage] | type[Poison]:
    """What `shared.events.decode` makes of it."""
    try:
        usage = decode(value, UsageRecorded)
    except UndecodableEvent:
        return Poison
    if usage is None:
        return []
    is_unfit = usage.occurred_at.tzinfo is None or "\x00" in usage.tenant + usage.reference + usage.purpose
    if is_unfit:
        return Poison
    if not NOW - USAGE_AGE_MAX <= usage.occurred_at <= NOW + USAGE_AHEAD_MAX:
        return RecordRefused
    return [Usage(usage.tenant, usage.reference, usage.credits, usage.purpose, usage.occurred_at)]


def as_read(value: bytes) -> list[Usage] | type[Poison]:
    try:
        return usage_of([record(value)], NOW)
    except Poison as error:
        return type(error)


_TEXTS = st.text(max_size=5) | st.sampled_from(["", "a\x00b", "\\u0000", '"', "\ud800", "r" * 256, "r" * 255])
_NUMBERS = st.sampled_from([0, 1, -1, 1.0, 1.5, 2**53 - 1, 2**53, 10**30, True, "1", None]) | st.integers(1, 100)
_TIMES = st.sampled_from(
    [
        "2026-09-01", "2026-09-01 12:00:00Z", "2026-09-01T12:00:00", "2026-09-01T12:00:00+05:30",
        "2026-09-01T24:00:00Z", "2026-09-01t12:00:00z", "2026-09-01T11:59:60Z", "2026-09-01T12:00:00.123456Z",
        "2026-09-01T12:00:00-00:00", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59Z", NOW.timestamp(), None,
    ]
)  # fmt: skip
_TIMES_AROUND_NOW = st.timedeltas(-USAGE_AGE_MAX - timedelta(1), USAGE_AHEAD_MAX * 2).map(
    lambda each: (NOW + each).isoformat()
)
_DATA = st.fixed_dictionaries(
    {},
    optional={
        "tenant": _TEXTS, "reference": _TEXTS, "credits": _NUMBERS, "occurred_at": _TIMES | _TIMES_AROUND_NOW,
        "purpose": _TEXTS | st.sampled_from([None, "p" * 101]), "extra": st.just([{}]),
    },
)  # fmt: skip


@given(_DATA)
def test_the_parser_agrees_with_the_contract(data: dict[str, Any]) -> None:
    value = event(**data)
    assert as_read(value) == as_decoded(value)


@given(st.binary(max_size=60) | st.integers(0, 150).map(lambda n: event()[:n]))
def test_bytes_that_are_no_event_are_poison(value: bytes) -> None:
    assert as_read(value) == as_decoded(value) == Poison


@pytest.mark.parametrize(
    "change",
    [
        {"type": "usage.recorded.v2"}, {"type": "usage.recorded.v2", "data": None}, {"specversion": "0.3"},
        {"data": None}, {"type": None}, {"specversion": 1.0},
    ],
)  # fmt: skip
def test_other_types_are_ignored_and_other_envelopes_are_poison(change: dict[str, Any]) -> None:
    value = json.dumps(json.loads(event()) | change).encode()
    assert as_read(value) == as_decoded(value)


@pytest.mark.parametrize("text", ["a\x00", "\x00", "\\\x00"])
@pytest.mark.parametrize("name", ["tenant", "reference", "purpose"])
def test_usage_with_a_nul_character_is_poison(name: str, text: str) -> None:
    with pytest.raises(Poison, match="NUL"):
        usage_of([record(event(**{name: text}))], NOW)


def test_a_record_without_value_is_poison() -> None:
    with pytest.raises(Poison):
        usage_of([record(None)], NOW)


def test_usage_at_the_bounds_of_time_is_accepted() -> None:
    times = [NOW - USAGE_AGE_MAX, NOW + USAGE_AHEAD_MAX]
    read = usage_of([record(event(occurred_at=each.isoformat())) for each in times], NOW)
    assert [each.occurred_at for each in read] == times
