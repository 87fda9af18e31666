"""Translates records of `usage.recorded` into commands. This runs for every debit, so its parser reads five values
only.

Records that this parser cannot read go to `shared.events.decode`, which decides: it knows the other types, and all
forms of times and numbers.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta, MsgspecError, Struct
from msgspec.json import Decoder

from ledger.core.commands import Usage
from ledger.core.retention import REFERENCES_KEPT
from ledger.core.tuples import tuple_of
from shared.events import UndecodableEvent, UsageRecorded, decode
from shared.kafka import Record
from shared.poison import Poison, RecordRefused

#: The reference of older usage may be in the archive, so that the usage would count twice.
USAGE_AGE_MAX = REFERENCES_KEPT - timedelta(days=5)
#: Usage is recorded after it happened, and clocks differ by less than this.
USAGE_AHEAD_MAX = timedelta(hours=1)


class _Data(Struct, gc=False):
    """As `UsageRecorded`."""

    tenant: str
    reference: Annotated[str, Meta(min_length=1, max_length=255)]
    credits: Annotated[int, Meta(gt=0, le=2**53 - 1)]
    occurred_at: datetime
    purpose: Annotated[str, Meta(max_length=100)] = ""


class _Event(Struct, gc=False):
    specversion: Literal["1.0"]
    type: Literal["usage.recorded.v1"]
    data: _Data


_read = Decoder(_Event).decode


def usage_of(records: Sequence[Record], now: datetime) -> list[Usage]:
    """The commands of the records, without records of other types.

    Raises `Poison` for a record that is no usage, and `RecordRefused` for usage so old that it may be a repetition, or
    in the future.
    """
    oldest, newest = now - USAGE_AGE_MAX, now + USAGE_AHEAD_MAX
    commands: list[Usage] = []
    for record in records:
        value = record.value or b""
        try:
            usage: _Data | UsageRecorded = _read(value).data
        except (MsgspecError, ValueError, RecursionError):
            decoded = _decode(value)
            if decoded is None:
                continue
            usage = decoded
        tenant, reference, purpose = usage.tenant, usage.reference, usage.purpose
        if b"\\u0000" in value and "\x00" in tenant + reference + purpose:
            raise Poison("usage with a NUL character, which no text column holds")
        occurred_at = usage.occurred_at
        if occurred_at.tzinfo is None:
            raise Poison("usage whose time has no zone")
        if not oldest <= occurred_at <= newest:
            raise _untimely(occurred_at, now)
        commands.append(tuple_of(Usage, (tenant, reference, usage.credits, purpose, occurred_at)))
    return commands


def _decode(value: bytes) -> UsageRecorded | None:
    try:
        return decode(value, UsageRecorded)
    except UndecodableEvent as error:
        raise Poison(str(error)) from error


def _untimely(occurred_at: datetime, now: datetime) -> RecordRefused:
    if occurred_at > now:
        return RecordRefused(
            f"usage of {occurred_at.isoformat()} lies in the future: a clock is wrong, the product's or the ledger's "
            f"({now.isoformat()}). Set it right, and send the usage again with its own time and reference."
        )
    return RecordRefused(
        f"usage of {occurred_at.isoformat()} is older than {USAGE_AGE_MAX.days} days: references of that time may "
        "be in the archive, so it could count twice. If it was never recorded, adjust the tenant's balance instead."
    )
