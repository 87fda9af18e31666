"""HTTP bodies of debits and holds."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ledger.api.bodies import Body, Credits, Identifier, Purpose
from ledger.core.commands import HoldStatus

BATCH_DEBITS_MAX = 1_000
HOLD_S_MAX = 30 * 24 * 60 * 60

DebitedTenantId = Annotated[Identifier | None, Field(description="With a token of `credits:debit:any`: whose credits.")]
Overdraft = Annotated[
    Literal["reject", "allow"], Field(description="`allow`: down to the tenant's overdraft limit below zero.")
]


class DebitRequest(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"reference": "job-4711", "credits": 12}})

    reference: Identifier = Field(description="Yours, unique for the tenant; the same again answers the first result.")
    credits: Credits
    purpose: Purpose = ""
    overdraft: Overdraft = "reject"
    tenant_id: DebitedTenantId = None


class DebitBody(Body):
    tenant_id: str
    reference: str
    credits: int
    available: int = Field(description="Right after this debit.")
    balance_version: int
    posted_at: datetime


class DebitBatchRequest(Body):
    debits: list[DebitRequest] = Field(min_length=1, max_length=BATCH_DEBITS_MAX)
    mode: Literal["each", "all"] = "each"


class RefusedBody(Body):
    model_config = ConfigDict(extra="allow")

    status: int
    code: str
    detail: str


class DebitResultBody(Body):
    tenant_id: str
    reference: str
    debit: DebitBody | None = None
    problem: RefusedBody | None = None


class DebitBatchBody(Body):
    refused: int
    results: list[DebitResultBody] = Field(description="In the order of the debits: `debit`, or `problem`.")


class HoldRequest(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"reference": "chat-42", "credits": 500}})

    reference: Identifier = Field(description="Yours, unique for the tenant among debits and holds.")
    credits: Credits
    expires_in_s: Annotated[int, Field(strict=True, ge=1, le=HOLD_S_MAX)] = 900
    purpose: Purpose = ""
    tenant_id: DebitedTenantId = None


class CaptureRequest(Body):
    credits: Credits
    overdraft: Overdraft = "reject"
    tenant_id: DebitedTenantId = None


class ReleaseRequest(Body):
    tenant_id: DebitedTenantId = None


class HoldBody(Body):
    tenant_id: str
    reference: str
    credits: int
    status: HoldStatus
    captured_credits: int
    expires_at: datetime
    available: int | None = Field(description="Right after the hold was made or ended, whichever this answers.")
    balance_version: int | None
