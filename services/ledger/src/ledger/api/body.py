"""What the bodies are made of: camelCase JSON; credits and minor units are integers."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from ledger.core.accounts import CREDITS_MAX

#: No control characters: PostgreSQL's text has no NUL, and callers must not forge lines of logs.
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
#: The reference of an entry may be longer than that of a request: `hold:<reference>:capture`.
EntryReference = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
Purpose = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
#: The same as in a token (`shared.auth`).
TenantId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
Credits = Annotated[int, Field(strict=True, gt=0, le=CREDITS_MAX)]
DebitedTenantId = Annotated[Identifier | None, Field(description="With a token of `credits:debit:any`: whose credits.")]
Overdraft = Annotated[
    Literal["reject", "allow"], Field(description="`allow`: down to the tenant's overdraft limit below zero.")
]
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _written_out(time: Any) -> Any:
    if not isinstance(time, datetime) and not (isinstance(time, str) and _RFC3339.fullmatch(time)):
        raise ValueError("write a time with its zone, as 2026-09-01T12:00:00Z")
    return time


def _within_reach(time: datetime) -> datetime:
    if not 1970 <= time.year <= 9000:
        raise ValueError("write a time between 1970 and 9000; leave it out where there is none")
    return time


#: A time as RFC 3339 writes it: a number would be seconds to one caller and milliseconds to another. The first and the
#: last moments of Python's calendar are refused: PostgreSQL's driver takes them for infinity, which has no zone and
#: compares with nothing.
Time = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_within_reach)]


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")
