"""Routes by which credits are used: debits, batches of them, and holds. All are written in groups."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic_core import to_json, to_jsonable_python

from ledger.api.answers import refusal, unknown_hold
from ledger.api.bodies import Identifier
from ledger.api.bodies_of_use import (
    CaptureRequest,
    DebitBatchBody,
    DebitBatchRequest,
    DebitBody,
    DebitRequest,
    HoldBody,
    HoldRequest,
    ReleaseRequest,
)
from ledger.api.callers import Debitor, debited_tenant
from ledger.api.committing import commit
from ledger.core.commands import (
    AllOrNothing,
    Capture,
    Debit,
    DebitOutcomes,
    Held,
    Hold,
    HoldStatus,
    Outcome,
    Posted,
    Release,
)
from ledger.reading import read_hold
from shared.auth import Principal
from shared.clock import transaction_time
from shared.database import tenant_transaction
from shared.problems import Problem, problem_responses

router = APIRouter()

Reference = Annotated[Identifier, Path(description="The hold's.")]


@router.post(
    "/debits", response_model=DebitBody, responses=problem_responses(401, 402, 403, 404, 409, 413, 422, 500, 503)
)
async def post_debit(request: Request, principal: Debitor, body: DebitRequest) -> Response:
    """Uses credits, or refuses with 402 and what is available. The same reference again answers the first result."""
    debit = _debit(principal, body)
    [outcome] = await commit(request, [debit])
    if not isinstance(outcome, Posted):
        raise refusal(outcome)
    return _json(_debit_body(debit, outcome))


@router.post(
    "/debits/batch", response_model=DebitBatchBody, responses=problem_responses(401, 403, 409, 413, 422, 500, 503)
)
async def post_debit_batch(request: Request, principal: Debitor, body: DebitBatchRequest) -> Response:
    """Debits on their own (`each`: every one is answered for itself) or together (`all`: one that is refused refuses
    all of them, with 409)."""
    debits = [_debit(principal, each) for each in body.debits]
    if body.mode == "each":
        outcomes = await commit(request, debits)
    else:
        [together] = await commit(request, [AllOrNothing(tuple(debits))])
        assert isinstance(together, DebitOutcomes), "all or nothing"
        outcomes = together.outcomes
    results = [_result(debit, outcome) for debit, outcome in zip(debits, outcomes, strict=True)]
    refused = sum("problem" in result for result in results)
    if refused and body.mode == "all":
        raise Problem(
            409, "batch_refused", "Nothing was posted. See each result, mend the batch, and send it again.",
            results=to_jsonable_python(results),
        )  # fmt: skip
    return _json({"refused": refused, "results": results})


@router.post(
    "/holds", response_model=HoldBody, responses=problem_responses(401, 402, 403, 404, 409, 413, 422, 500, 503)
)
async def post_hold(request: Request, principal: Debitor, body: HoldRequest) -> Response:
    """Reserves credits for work whose cost is not known yet; they come back by themselves after `expiresInS`."""
    tenant = debited_tenant(principal, body.tenant_id)
    async with request.app.state.api_engine.connect() as connection:
        expires_at = await transaction_time(connection) + timedelta(seconds=body.expires_in_s)
    return await _hold(request, Hold(tenant, body.reference, body.credits, body.purpose, expires_at))


@router.post(
    "/holds/{reference:path}/capture",
    response_model=HoldBody,
    responses=problem_responses(401, 402, 403, 404, 409, 413, 422, 500, 503),
)
async def post_capture(request: Request, principal: Debitor, reference: Reference, body: CaptureRequest) -> Response:
    """Uses any part of a hold, releases the rest, and ends it. More than the hold has is debited like any use."""
    tenant = debited_tenant(principal, body.tenant_id)
    return await _hold(request, Capture(tenant, reference, body.credits, body.overdraft == "allow"))


@router.post(
    "/holds/{reference:path}/release",
    response_model=HoldBody,
    responses=problem_responses(401, 403, 404, 409, 413, 422, 500, 503),
)
async def post_release(request: Request, principal: Debitor, reference: Reference, body: ReleaseRequest) -> Response:
    """Ends a hold without using anything of it."""
    return await _hold(request, Release(debited_tenant(principal, body.tenant_id), reference))


@router.get("/holds/{reference:path}", responses=problem_responses(401, 403, 404, 422, 500, 503))
async def get_hold(
    request: Request,
    principal: Debitor,
    reference: Reference,
    tenant_id: Annotated[Identifier | None, Query(alias="tenantId")] = None,
) -> HoldBody:
    """A hold as it is now. `available` is the balance's right after it ended; null while it is open."""
    tenant = debited_tenant(principal, tenant_id)
    async with tenant_transaction(request.app.state.api_engine, tenant) as connection:
        row = await read_hold(connection, tenant, reference)
        now = await transaction_time(connection)
    if row is None:
        raise unknown_hold()
    is_over = row.status == HoldStatus.OPEN and row.expires_at <= now
    return HoldBody(
        tenant_id=tenant, reference=reference, credits=row.credits,
        status=HoldStatus.EXPIRED if is_over else HoldStatus(row.status), captured_credits=row.captured,
        expires_at=row.expires_at, available=row.ended_available, balance_version=row.ended_version,
    )  # fmt: skip


async def _hold(request: Request, command: Hold | Capture | Release) -> Response:
    [outcome] = await commit(request, [command])
    if not isinstance(outcome, Held):
        raise refusal(outcome)
    return _json(
        {
            "tenantId": command.tenant,
            "reference": outcome.reference,
            "credits": outcome.credits,
            "status": outcome.status,
            "capturedCredits": outcome.captured,
            "expiresAt": outcome.expires_at,
            "available": outcome.available_after,
            "balanceVersion": outcome.version,
        }
    )


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


def _json(body: Mapping[str, Any]) -> Response:
    """Made of what was just validated or read: checked once more it would cost more than the debit itself."""
    return Response(to_json(body), media_type="application/json")
