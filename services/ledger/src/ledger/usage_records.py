"""`usage.recorded` as commands: what is read for each debit, so by a parser that makes nothing but its five values.

Whatever that parser cannot read is left to `shared.events.decode`, whose word is final: it knows what is of another
type, and what times and numbers may look like.
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

#: Older usage may have been recorded already and its reference be in the archive, so that it would count twice.
USAGE_AGE_MAX = REFERENCES_KEPT - timedelta(days=5)
#: Usage is recorded after it happened; clocks differ by less.
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
    """What the records tell, without those of other types.

    Raises `Poison` for what is no usage, and `RecordRefused` for usage of a time that cannot be told from a repetition,
    or has not come.
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
