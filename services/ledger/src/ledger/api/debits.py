"""`/debits`: one debit, or a batch of them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field
from pydantic_core import to_jsonable_python

from ledger.api.body import Body, Credits, DebitedTenantId, Identifier, Overdraft, Purpose
from ledger.api.dependencies import Debitor, debited_tenant, dependencies_of
from ledger.api.errors import refusal
from ledger.api.responses import json_response
from ledger.core.commands import AllOrNothing, Debit, DebitOutcomes, Outcome, Posted
from shared.auth import Principal
from shared.problems import Problem, problem_responses

router = APIRouter()
BATCH_DEBITS_MAX = 1_000


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


@router.post(
    "/debits", response_model=DebitBody, responses=problem_responses(401, 402, 403, 404, 409, 413, 422, 500, 503)
)
async def post_debit(request: Request, principal: Debitor, body: DebitRequest) -> Response:
    """Uses credits, or refuses with 402 and what is available. The same reference again answers the first result."""
    debit = _debit(principal, body)
    [outcome] = await dependencies_of(request).commit([debit])
    if not isinstance(outcome, Posted):
        raise refusal(outcome)
    return json_response(_debit_body(debit, outcome))


@router.post(
    "/debits/batch", response_model=DebitBatchBody, responses=problem_responses(401, 403, 409, 413, 422, 500, 503)
)
async def post_debit_batch(request: Request, principal: Debitor, body: DebitBatchRequest) -> Response:
    """Debits on their own (`each`: every one is answered for itself) or together (`all`: one that is refused refuses
    all of them, with 409)."""
    debits = [_debit(principal, each) for each in body.debits]
    if body.mode == "each":
        outcomes = await dependencies_of(request).commit(debits)
    else:
        [together] = await dependencies_of(request).commit([AllOrNothing(tuple(debits))])
        assert isinstance(together, DebitOutcomes), "all or nothing"
        outcomes = together.outcomes
    results = [_result(debit, outcome) for debit, outcome in zip(debits, outcomes, strict=True)]
    refused = sum("problem" in result for result in results)
    if refused and body.mode == "all":
        raise Problem(
            409, "batch_refused", "Nothing was posted. See each result, mend the batch, and send it again.",
            results=to_jsonable_python(results),
        )  # fmt: skip
    return json_response({"refused": refused, "results": results})


def _debit(principal: Principal, body: DebitRequest) -> Debit:
    tenant = debited_tenant(principal, body.tenant_id)
    return Debit(tenant, body.reference, body.credits, body.purpose, body.overdraft == "allow")


def _result(debit: Debit, outcome: Outcome) -> Mapping[str, Any]:
    if isinstance(outcome, Posted):
        return {"tenantId": debit.tenant, "reference": debit.reference, "debit": _debit_body(debit, outcome)}
    problem = refusal(outcome)
    return {
        "tenantId": debit.tenant,
        "reference": debit.reference,
        "problem": {"status": problem.status, "code": problem.code, "detail": problem.detail, **problem.more},
    }


def _debit_body(debit: Debit, posted: Posted) -> Mapping[str, Any]:
    return {
        "tenantId": debit.tenant,
        "reference": debit.reference,
        "credits": posted.credits,
        "available": posted.available_after,
        "balanceVersion": posted.version,
        "postedAt": posted.posted_at,
    }
