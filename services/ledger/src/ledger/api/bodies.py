"""HTTP bodies: camelCase JSON; credits and minor units are integers."""

import re
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from ledger.core.accounts import CREDITS_MAX, PROMOTION_PRIORITY
from ledger.stripe_commands import EXPIRES_IN_DAYS_MAX

#: No control characters: PostgreSQL's text holds no NUL, and logs should not be written by callers.
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
#: An entry's may be longer than what it was made of: `hold:<reference>:capture`.
EntryReference = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
Purpose = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
#: What a token may carry too (`shared.auth`).
TenantId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
Credits = Annotated[int, Field(strict=True, gt=0, le=CREDITS_MAX)]
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


class BalanceBody(Body):
    tenant_id: str
    version: int = Field(description="Grows with every entry.")
    available: int = Field(description="Credits that can be spent; negative where the tenant owes.")
    held: int
    owed: int
    receivable: int = Field(description="The part of `owed` that refunds and disputes left.")
    usage_day: date | None
    usage_by_purpose: dict[str, int] = Field(description="Credits used on `usageDay` (UTC), the 20 largest purposes.")
    usage_of_other_purposes: int
    changed_at: datetime


class PastBalanceBody(Body):
    tenant_id: str
    at: AwareDatetime
    version: int = Field(description="Of the last entry posted by then; 0 before the first.")
    available: int
    held: int
    owed: int
    receivable: int


class EntryBody(Body):
    version: int
    door: str
    reference: str
    kind: str
    source: str = Field(description="The account that the credits left.")
    destination: str = Field(description="The account that they came to.")
    credits: int = Field(description="What the entry changed the balance by: 0 for a hold or its release.")
    moved_credits: int = Field(description="How many moved from `source` to `destination`.")
    balance_after: int
    available_after: int
    beyond_limit: bool = Field(description="Usage that went beyond the tenant's overdraft limit.")
    amount_minor: int | None
    currency: str | None
    payment_intent: str | None
    purchase: str | None
    attempt: str | None
    purpose: str | None
    occurred_at: datetime | None
    posted_at: datetime


class EntriesBody(Body):
    entries: list[EntryBody] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="Ask again with this as `cursor` for older entries; null at the end.")


class GrantBody(Body):
    grant_number: int
    door: str
    reference: str
    payment_intent: str | None
    credits: int = Field(description="As granted.")
    remaining: int = Field(description="Free now.")
    held: int = Field(description="In holds now.")
    priority: int = Field(description="The lowest is spent first; then the soonest expiry, then the oldest.")
    expires_at: datetime | None
    created_at: datetime


class GrantsBody(Body):
    grants: list[GrantBody] = Field(description="Newest first.")
    next_before: int | None = Field(description="Ask again with this as `before` for older ones; null at the end.")


class TenantRequest(Body):
    overdraft_limit: Annotated[int, Field(strict=True, ge=0, le=CREDITS_MAX)] | None = Field(
        None,
        description="How far below zero requests with `overdraft: allow` may go. 0: never, as for a new tenant. "
        "Left out: stays as it is.",
    )


class TenantBody(Body):
    tenant_id: str
    overdraft_limit: int
    available: int
    held: int
    owed: int
    receivable: int
    version: int


class PromotionRequest(Body):
    tenant_id: TenantId
    reference: Identifier = Field(description="Unique for the tenant; the same again answers the first result.")
    credits: Credits
    priority: Annotated[int, Field(strict=True, ge=0, le=1_000)] = Field(
        PROMOTION_PRIORITY, description="Lots of a lower number are spent first; paid ones have 100."
    )
    expires_at: Time | None = None
    reason: Purpose = ""


class AdjustmentRequest(Body):
    tenant_id: TenantId
    reference: Identifier
    credits: Annotated[int, Field(strict=True, ge=-CREDITS_MAX, le=CREDITS_MAX)] = Field(
        description="Signed, not 0. What a negative one does not find is owed.",
        json_schema_extra={"not": {"const": 0}},
    )
    reason: Annotated[Purpose, Field(min_length=1)]

    def model_post_init(self, _context: Any) -> None:
        if self.credits == 0:
            raise ValueError("credits must not be 0")


class OperationBody(Body):
    tenant_id: str
    reference: str
    credits: int = Field(description="What the entry changed the balance by.")
    available: int = Field(description="Right after this entry.")
    balance_version: int
    posted_at: datetime


class UnappliedReceiptBody(Body):
    payment_intent: str
    claimed_tenant_id: str | None
    amount_minor: int
    currency: str
    reason: str
    purchase: str | None
    attempt: str | None
    received_at: datetime


class UnappliedReceiptsBody(Body):
    unapplied_receipts: list[UnappliedReceiptBody]
    next_cursor: str | None


class ReceiptCreditRequest(Body):
    tenant_id: TenantId = Field(description="Whose money it is; has to be known to the ledger.")
    credits: Credits = Field(description="What the whole amount buys, whatever has been refunded of it.")
    expires_in_days: Annotated[int, Field(strict=True, gt=0, le=EXPIRES_IN_DAYS_MAX)] | None = Field(
        None, description="Null: never. The first request decides; a repetition is not compared by it."
    )
