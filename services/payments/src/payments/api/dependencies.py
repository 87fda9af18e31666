"""What the routes depend on, typed."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from payments.workflows.context import WorkflowContext
from shared.auth import Principal, Scope, requires
from shared.problems import Problem

IDEMPOTENCY_KEY_LENGTH_MAX = 255


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What `create_app` gives to the routes. `workflows.engine` has the API's role: it sees one tenant at a time."""

    workflows: WorkflowContext
    metadata_signing_key: str
    stripe_publishable_key: str
    ledger_url: str
    recharge_url: str


async def get_dependencies(request: Request) -> Dependencies:
    """The app's dependencies."""
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


async def idempotency_key(idempotency_key: Annotated[str | None, Header()] = None) -> str:
    """The header that every POST that costs money needs."""
    if not idempotency_key or len(idempotency_key) > IDEMPOTENCY_KEY_LENGTH_MAX:
        raise Problem(
            400,
            "idempotency_key_required",
            "Send an Idempotency-Key header of 1 to 255 characters: new for each new request, the same for a retry.",
        )
    return idempotency_key


AppDependencies = Annotated[Dependencies, Depends(get_dependencies)]
IdempotencyKey = Annotated[str, Depends(idempotency_key)]
Reader = Annotated[Principal, Depends(requires(Scope.BILLING_READ))]
Writer = Annotated[Principal, Depends(requires(Scope.BILLING_WRITE))]
