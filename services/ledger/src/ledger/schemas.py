"""HTTP bodies: camelCase JSON; credits and minor units are integers."""

from datetime import date, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from ledger.core.accounts import CREDITS_MAX

#: No control characters: PostgreSQL's text holds no NUL, and logs should not be written by callers.
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Purpose = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


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


class EntryBody(Body):
    version: int
    door: str
    reference: str
    kind: str
    credits: int = Field(description="What the entry changed the balance by.")
    balance_after: int
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


class DebitRequest(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"reference": "job-4711", "credits": 12}})

    reference: Identifier = Field(description="Yours, unique for the tenant; the same again answers the first result.")
    credits: Annotated[int, Field(strict=True, gt=0, le=CREDITS_MAX)]
    purpose: Purpose = ""
    tenant_id: Identifier | None = Field(None, description="With a token of `credits:debit:any`: whose credits.")


class DebitBody(Body):
    tenant_id: str
    reference: str
    credits: int
    available: int = Field(description="Right after this debit.")
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
