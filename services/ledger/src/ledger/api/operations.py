"""What an operator posts, whichever way: one command, and the entry that it made."""

from datetime import datetime

from pydantic import Field

from ledger.api.body import Body
from ledger.api.dependencies import Dependencies
from ledger.api.errors import refusal
from ledger.core.commands import Adjustment, Credit, Posted, Promotion


class OperationBody(Body):
    tenant_id: str
    reference: str
    credits: int = Field(description="What the entry changed the balance by.")
    available: int = Field(description="Right after this entry.")
    balance_version: int
    posted_at: datetime


async def post_operation(dependencies: Dependencies, command: Promotion | Adjustment | Credit) -> OperationBody:
    """Commits the command; raises the problem of its refusal."""
    [outcome] = await dependencies.commit([command])
    if not isinstance(outcome, Posted):
        raise refusal(outcome)
    return OperationBody(
        tenant_id=command.tenant,
        reference=command.payment_intent if isinstance(command, Credit) else command.reference,
        credits=command.credits,
        available=outcome.available_after, balance_version=outcome.version, posted_at=outcome.posted_at,
    )  # fmt: skip
